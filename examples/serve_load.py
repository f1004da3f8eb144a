"""Load examples/serve.py's server with more and more requests, dense and adaptive, and draw what they wait.

    python examples/serve_load.py                  # about a minute; writes runs/serve_load.png
    python examples/serve_load.py --quick          # seconds, to see that it runs

Requests come at random times (a Poisson process) from within the process, so that this measures batching, the choice of
budgets and the network, and no HTTP. They show parts of two photographs. The deadline is ten times what the idle dense
server needs.
"""
from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import matplotlib
import torch
from serve import MEAN, PUBLISHED, STD, Server
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

import bdsa

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

LOADS = (0.2, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # of what the dense server can do


def parts_of_photographs(size: int, count: int = 64) -> Tensor:
    """Squares of the photographs that come with scikit-learn, normalised, [count, 3, size, size]."""
    photographs = [to_tensor(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    parts, generator = [], random.Random(0)
    for i in range(count):
        photograph = photographs[i % 2]
        top, left = (generator.randrange(side - 2 * size) for side in photograph.shape[1:])
        part = photograph[None, :, top:top + 2 * size, left:left + 2 * size]
        parts.append(normalize(torch.nn.functional.avg_pool2d(part, 2)[0], MEAN, STD))
    return torch.stack(parts)


def answers(server: Server, rate: float, seconds: float, deadline: float) -> list[dict]:
    """What requests at `rate` a second got, in `seconds`."""
    generator, asked = random.Random(0), []
    end = time.perf_counter() + seconds
    due = time.perf_counter()
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        asked.append(server.submit(generator.choice(server.like), deadline=deadline))
        due += generator.expovariate(rate)
    return [each.result() for each in asked]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default=PUBLISHED, help="what bdsa.load reads")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/serve_load.png"))
    asked = parser.parse_args()
    seconds, loads = (0.3, LOADS[::3]) if asked.quick else (asked.seconds, LOADS)
    network = bdsa.load(asked.network)
    network.execution, network.watch_weights = "sparse", "never"
    size = (asked.size, asked.size)
    like = parts_of_photographs(asked.size)
    servers = {"dense": Server(network, size, [1.0], like=like), "adaptive": Server(network, size, like=like)}
    idle = servers["dense"].seconds[1.0, 1]
    capacity = servers["dense"].most / servers["dense"].seconds[1.0, servers["dense"].most]
    deadline = 10 * idle
    print(f"dense, idle: {1000 * idle:.2f} ms an image, {capacity:.0f} images a second at most; "
          f"deadline {1000 * deadline:.1f} ms")
    print(f"{'server':9} {'load':>5} {'asked/s':>8} {'answered/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} "
          f"{'in time':>8} {'mean budget':>12}")
    curves: dict[str, list[float]] = {name: [] for name in servers}
    for name, server in servers.items():
        for load in loads:
            rate, started = load * capacity, time.perf_counter()
            got = answers(server, rate, seconds, deadline)
            rate_out = len(got) / (time.perf_counter() - started)
            waits = [each["seconds"] for each in got]
            in_time = sum(w <= deadline for w in waits) / len(waits)
            p50, p95, p99 = (1000 * percentile(waits, share) for share in (0.5, 0.95, 0.99))
            mean = sum(each["budget"] for each in got) / len(got)
            print(f"{name:9} {load:5.2f} {rate:8.0f} {rate_out:10.0f} {p50:8.2f} {p95:8.2f} {p99:8.2f} {in_time:8.1%} "
                  f"{mean:12.2f}", flush=True)
            curves[name].append(p99)
    for server in servers.values():  # not between: a stop lets the garbage collector look through everything again
        server.stop()
    for load, dense, adaptive in zip(loads, curves["dense"], curves["adaptive"]):
        if dense > 1000 * deadline:
            print(f"at a load of {load:g} the dense server's p99 passes ten times its idle latency ({dense:.1f} ms of "
                  f"{1000 * deadline:.1f}); the adaptive one's is {adaptive:.1f} ms")
            break
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, values in curves.items():
        axes.plot(loads, values, marker="o", label=name)
    axes.axhline(1000 * deadline, color="grey", linestyle="--", label="deadline")
    axes.set(xlabel="load, of what the dense server can do", ylabel="99th percentile, ms", yscale="log")
    axes.legend()
    figure.tight_layout()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(asked.out, dpi=150)
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
