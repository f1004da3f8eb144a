"""Everything about sparse execution on a GPU in one run of ten minutes: is it right, then how fast.

    python benchmarks/gpu.py                # on a machine with an NVIDIA GPU of compute capability 8.0 or more
    python benchmarks/gpu.py --minutes 20   # also the compiled dense networks at small batches

It prints each figure as soon as it is there, then the rows of docs/benchmarks.md, and writes gpu.json. What is wrong
ends it before anything is timed. It has not been run on a GPU yet.
"""
from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import bdsa
from bdsa.commands.benchmark.gpu_latency import masks_for, measured
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import executor_of
from bdsa.sparse.gpu import device as gpu

ROOT = Path(__file__).parents[1]
NETWORKS, BATCHES, BUDGETS = ("resnet50", "convnext_tiny"), (128, 32, 1), [0.3, 0.5]
BLOCKS = ("resnet18", "resnet50", "resnext50_32x4d", "convnext_tiny", "convnextv2_atto")  # every kind of block
STARTED = time.monotonic()


def say(*words: object) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s]", *words, flush=True)


def network_of(name: str) -> AdaptiveNetwork:
    """An adaptive network with weights that follow from nothing but its name, on the GPU."""
    torch.manual_seed(0)
    network = bdsa.create_model(name, BUDGETS).eval()
    return network.to("cuda", memory_format=torch.channels_last)


def compile_share(job: tuple[str, int, int, int]) -> str | None:
    """In a process of its own: compile a share of a network's kernels, which Triton keeps on the disk."""
    from bdsa.sparse.gpu import launch
    name, batch, share, shares = job

    def start(kernel: Any, arguments: tuple, constants: dict[str, Any]) -> None:
        if zlib.crc32(f"{kernel.__name__} {sorted(constants.items())}".encode()) % shares == share:
            kernel[(1,)](*arguments, **constants)

    try:
        network = network_of(name).bfloat16()
        x = torch.zeros(batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
        executor = executor_of(network, network.budgets.adaptive[0].name)
        with torch.inference_mode(), launch.watched(start):
            executor(x, None, False)
        torch.cuda.synchronize()
    except Exception as error:  # said by the parent; there the same will stop the run
        return f"{job}: {type(error).__name__}: {str(error)[:200]}"
    return None


def compile_ahead(processes: int) -> None:
    """Compile on all cores what would else be compiled one after the other."""
    jobs = [(name, batch, share, 4) for name in NETWORKS for batch in BATCHES for share in range(4)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for failed in filter(None, pool.map(compile_share, jobs)):
            say("not compiled:", failed)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, over the spread of b."""
    return float((a.float() - b.float()).abs().max() / (b.max() - b.min()).float())


def check(name: str) -> list[tuple[str, float, float]]:
    """What was compared for a network, how far it is away, and how far it may be."""
    network = network_of(name)
    x = torch.randn(3, 3, 160, 224, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    narrow, images = copy.deepcopy(network).bfloat16(), x.bfloat16()
    found = []
    with torch.inference_mode():
        kinds: dict[str, list[torch.Tensor] | None] = {"own masks": None}
        for budget, masks in masks_for(network, x, BUDGETS).items():
            kinds[f"density of {budget:g}"] = masks
        kinds["empty masks"] = [torch.zeros_like(mask) for mask in masks]
        for kind, masks in kinds.items():
            network.execution = "masked"
            expected, usage = network(x, budget=0.5, masks=masks, return_usage=True)
            network.execution = narrow.execution = "sparse"
            for turn in ("captured", "replayed"):
                found.append((f"{name}, {kind}, float32, {turn}",
                              distance(network(x, budget=0.5, masks=usage.masks), expected), 1e-3))
                found.append((f"{name}, {kind}, bfloat16, {turn}",
                              distance(narrow(images, budget=0.5, masks=usage.masks), expected), 5e-2))
    return found


def inference(name: str, batch: int, compiled: bool) -> dict[str, Any]:
    """Milliseconds of a network at all budgets and of its dense rivals."""
    network = network_of(name)
    x = torch.randn(batch, 3, 224, 224, device="cuda")
    result = {"model": name, "batch_size": batch, **measured(network, x, masks_for(network, x, BUDGETS), 7, compiled,
                                                             "auto" if batch == 1 else "sparse")}
    say(f"{name}, batch {batch}: " + ", ".join(f"{peer} {ms:.3f} ms" for peer, ms in result["peers"].items()))
    for row in result["rows"]:
        say(f"    budget {row['budget']:g}: {row['ms']:.3f} ms, {row['speedup']:.2f} times {result['best_peer']}, "
            f"logits off by {row['logits_apart']:.2%}")
    return result


def training(name: str, seconds: float) -> str:
    """Images a second of the training steps (`bdsa-benchmark`): dense, one budget, several, with a teacher."""
    words = ["model=" + name, "data=cluttered_digits", "data.image_size=224", "budgets.targets=[0.3,0.5,0.7]",
             "teacher=self", "recipe.batch_size=128", "trainer.device=cuda", "trainer.amp=bfloat16",
             "trainer.compile=true"]
    done = subprocess.run([sys.executable, "-m", "bdsa.commands", "benchmark", *words], capture_output=True, text=True,
                          timeout=seconds)
    return done.stdout + done.stderr[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    asked = parser.parse_args()
    if not torch.cuda.is_available() or (reason := gpu.unavailable(torch.device("cuda"))):
        print(f"error: {reason if torch.cuda.is_available() else 'no GPU that PyTorch can use'}", file=sys.stderr)
        return 2
    left = lambda: 60 * asked.minutes - (time.monotonic() - STARTED)  # noqa: E731
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    say(torch.cuda.get_device_name(), "torch", torch.__version__)
    compile_ahead(min(8, os.cpu_count() or 1))
    say("compiled")
    wrong = [each for name in BLOCKS for each in check(name) if not each[1] <= each[2]]
    for what, found, limit in wrong:
        say(f"WRONG: {what}: {found:.2e} of the spread, at most {limit:.0e}")
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/sparse/test_gpu.py",
                            "tests/training/test_waiting.py"], cwd=ROOT, capture_output=True, text=True)
    say(tests.stdout.strip().rpartition("\n")[2])
    if wrong or tests.returncode:
        print(tests.stdout[-3000:])
        return 1
    results = [inference(name, batch, compiled=False) for batch in BATCHES for name in NETWORKS]
    for batch in BATCHES:  # slow to compile, so last
        for name in NETWORKS:
            if left() > 150:
                results.append(inference(name, batch, compiled=True))
    asked.out.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
                                     "results": results}, indent=1))
    print("| network | batch | budget | fastest dense engine | ms | speedup |\n|---|---|---|---|---|---|")
    for result in results:
        for row in result["rows"]:
            best = result["best_peer"]
            print(f"| {result['model']} | {result['batch_size']} | {row['budget']:g} | {best}, "
                  f"{result['peers'][best]:.3f} ms | {row['ms']:.3f} | {row['speedup']:.2f} |")
    if left() > 90:
        say(training("resnet50", left()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
