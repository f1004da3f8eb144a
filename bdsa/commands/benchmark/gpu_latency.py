"""bdsa-benchmark what=latency trainer.device=cuda: an adaptive network against dense engines on a GPU, in bfloat16.

All are captured as CUDA graphs, whose replays are timed by the device's own clock, in turns. It has not been run on a
GPU yet.
"""
from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from bdsa.commands.benchmark.capture import captured
from bdsa.commands.benchmark.folder import benchmark_folder, check_alone
from bdsa.commands.benchmark.subject import find_subject
from bdsa.commands.benchmark.synthetic_masks import block_shapes, synthetic_masks
from bdsa.config.benchmark import BenchmarkConfig, LatencyConfig
from bdsa.errors import UserError
from bdsa.models.dense_copy import dense_copy, fold_batch_norms
from bdsa.models.network import AdaptiveNetwork
from bdsa.report.terminal import print_whole
from bdsa.runs.environment import environment
from bdsa.runs.files import check_writable, write_json
from bdsa.sparse.auto import NEVER
from bdsa.sparse.execution import executor_at
from bdsa.sparse.gpu import device as gpu
from bdsa.training.device import choose_device

Work = Callable[[], Tensor]
REPLAYS = 20  # of a graph between two looks at the clock
OWN_DENSE = "own kernels, density 1"


def benchmark(config: BenchmarkConfig, named: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Measure every batch size, print its table and write its benchmark.json; see `latency.benchmark`."""
    check_alone()
    check_asked(config.latency, named)
    device = choose_device(config.trainer)
    if reason := gpu.unavailable(device):
        raise UserError(f"trainer.device={config.trainer.device}: {reason}")
    sizes = config.latency.batch_sizes
    subject = find_subject(config, named, max(sizes))
    budgets = [float(b) for b in subject.budgets if not b.is_dense]
    check_adaptive(budgets)
    home = benchmark_folder(config, subject.source, subject.name, str(device))
    check_writable(home)
    results = []
    for size in sizes:
        x, masks = subject.images[:size].to(device), {}
        if config.latency.asked_masks == "synthetic":
            masks = masks_for(subject.network, x, budgets, config.trainer.seed, config.latency.blob)
        result = {"what": config.what, "model": subject.name, "batch_size": size,
                  **measured(subject.network.to(device), x, masks, config.latency.rounds,
                             "compile" in config.latency.peers, config.latency.execution, budgets),
                  "environment": environment(str(device)), "settings": asdict(config)}
        folder = home / f"batch{size}" if len(sizes) > 1 else home
        write_json(folder / "benchmark.json", result)
        print_whole(table_of(result))
        print(f"  results    {folder / 'benchmark.json'}")
        results.append(result)
    return results


def check_asked(latency: LatencyConfig, named: Collection[str]) -> None:
    """Raise UserError for what is measured on a CPU alone."""
    asked = {"latency.precision": latency.precision not in (None, "bfloat16"), "latency.int8": latency.int8,
             "latency.profile": latency.profile, "latency.seconds": "latency.seconds" in named,
             "latency.break_even": latency.break_even and "latency.break_even" in named}
    if refused := next((name for name, wanted in asked.items() if wanted), None):
        value = getattr(latency, refused.partition(".")[2])
        raise UserError(f"{refused}={str(value).lower()} is of trainer.device=cpu: a GPU is measured in bfloat16, by "
                        f"replays of graphs, at its budgets alone; leave it out")


def check_adaptive(budgets: Sequence[float]) -> None:
    """Raise UserError without a budget below 1, of which an adaptive network's latency is."""
    if not budgets:
        raise UserError("budgets.targets has no budget below 1, whose latency is compared with the dense network's: "
                        "give one, such as budgets.targets=[0.5]")


def masks_for(network: AdaptiveNetwork, x: Tensor, budgets: Sequence[float], seed: int = 0, blob: float = 0.15
              ) -> dict[float, list[Tensor]]:
    """Synthetic masks bool [B, 1, h, w] a block on the device of images x, by budget; 1: all ones."""
    check_adaptive(budgets)
    shapes = block_shapes(network, tuple(x.shape[2:]))
    made = {b: [mask.to(x.device) for mask in synthetic_masks(shapes, b, len(x), seed, blob)] for b in budgets}
    first = next(iter(made.values()))
    return {1.0: [torch.ones_like(mask) for mask in first], **made}


def measured(network: AdaptiveNetwork, x: Tensor, masks: Mapping[float, Sequence[Tensor]], rounds: int, compiled: bool,
             execution: str, asked: Sequence[float] | None = None) -> dict[str, Any]:
    """Milliseconds of every dense engine and budget.

    Args:
        network: in evaluation mode, in float32, on the GPU.
        x: [B, 3, H, W], float32 images there.
        masks: by budget, with 1 for all positions at the smallest; without any the units decide.
        rounds: that are timed; the median counts.
        compiled: whether to compile the dense network too, which takes minutes.
        execution: "sparse" or "auto".
        asked: budgets below 1; None: all that were trained.
    """
    narrow = copy.deepcopy(network).bfloat16().to(memory_format=torch.channels_last)
    images = x.bfloat16().contiguous(memory_format=torch.channels_last)
    budgets = [float(b) for b in network.budgets.adaptive] if asked is None else list(asked)
    works = dense_works(dense_copy(narrow), images, compiled)
    rows = []
    for budget in budgets:
        works[f"budget {budget:g}"] = own_work(narrow, images, budget, masks.get(budget), execution)
        rows.append({"name": f"budget {budget:g}", "budget": budget,
                     **accounted(network, narrow, x, images, budget, masks.get(budget))})
    if 1.0 in masks:
        works[OWN_DENSE] = own_work(narrow, images, budgets[0], masks[1.0], "sparse")
    ms = {name: median(each) for name, each in replayed(works, rounds, x.device).items()}
    peers = {name: each for name, each in ms.items() if not name.startswith("budget ")}
    rows = [row for row in rows if row["name"] in ms]  # what cannot be captured is left out
    if not peers or not rows:
        raise UserError(f"no {'budget' if peers else 'dense engine'} could be captured on this GPU, so that there is "
                        f"nothing to compare")
    best = min(peers, key=peers.__getitem__)
    return {"peers": peers, "best_peer": best, "rounds": rounds, "execution": execution,
            "rows": [{**row, "ms": ms[row["name"]], "speedup": peers[best] / ms[row["name"]]} for row in rows]}


def dense_works(dense: nn.Module, images: Tensor, compiled: bool) -> dict[str, Work]:
    """The dense network as it is, with its batch norms folded, and compiled with max-autotune."""
    works: dict[str, Work] = {"eager": lambda: dense(images)}
    if (folded := fold_batch_norms(dense)) is not None:
        works["folded"] = lambda: folded(images)
    if compiled:
        fast = torch.compile(folded or dense, mode="max-autotune-no-cudagraphs", dynamic=False)  # captured here
        works["compile, max-autotune"] = lambda: fast(images)
    return works


def own_work(network: AdaptiveNetwork, images: Tensor, budget: float, masks: Sequence[Tensor] | None, execution: str
             ) -> Work:
    """The adaptive network at a budget, as a graph would capture it; `auto` finds the blocks' ways here."""
    network.execution, network.watch_weights = execution, "never"
    with torch.inference_mode():
        network(images, budget=budget, masks=masks)
    executor = executor_at(network, budget)
    if execution == "masked":  # by blocks of the sparse executor, so that a graph can hold it
        executor.set_break_even([NEVER] * len(executor.blocks()))
    work = executor.work(network.forward_head, masks is not None, images.dtype, network.point(budget).offset)
    ways = [2.0 if way is None else way for way in executor.ways]

    def run() -> Tensor:
        executor.set_break_even(ways)  # another work may have set others
        with executor.alone(images):
            return work(images, list(masks or []))
    return run


def accounted(exact: AdaptiveNetwork, narrow: AdaptiveNetwork, x: Tensor, images: Tensor, budget: float,
              masks: Sequence[Tensor] | None) -> dict[str, float]:
    """Density, share of the dense MACs, and how far the logits are from masked float32's, of their spread."""
    exact.execution, narrow.execution = "masked", "sparse"
    with torch.inference_mode():
        expected, usage = exact(x, budget=budget, masks=masks, return_usage=True)
        found = narrow(images, budget=budget, masks=usage.masks).float()
    spread = float(expected.max() - expected.min())
    return {"density": sum(float(m.float().mean()) for m in usage.masks) / len(usage.masks),
            "macs_ratio": float(usage.macs.mean()) / exact.dense_macs(tuple(x.shape[2:])),
            "logits_apart": float((found - expected).abs().max()) / spread}


def replayed(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of a replay of each work's graph in every round, in turns. What cannot be captured is left out.

    On a CPU, where the tests are, it is a run of the work.
    """
    ms: dict[str, list[float]] = {}
    with torch.inference_mode():
        replay = captured if device.type == "cuda" else lambda name, work: work
        replays = {name: found for name, work in works.items() if (found := replay(name, work)) is not None}
        for number in range(rounds + 1):
            for name, replay in replays.items():
                taken = _milliseconds(replay, device)
                if number:  # the first round warms up
                    ms.setdefault(name, []).append(taken)
    return ms


def _milliseconds(replay: Callable[[], object], device: torch.device) -> float:
    """Of one of REPLAYS replays, by the device's clock."""
    if device.type != "cuda":
        started = time.perf_counter()
        replay()
        return 1000 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPLAYS):
        replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / REPLAYS


def table_of(result: Mapping[str, Any]) -> Table:
    """The figures of a batch size as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="",
                  title=f"{result['model']}, batch {result['batch_size']}, bfloat16, {result['execution']} execution, "
                        f"replays of CUDA graphs")
    for heading in ("", "density", "share of dense MACs", "ms", "speedup", "logits off by, %"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, ms in result["peers"].items():
        fastest = " (fastest)" if name == result["best_peer"] else ""
        table.add_row(f"dense, {name}{fastest}", "", "", f"{ms:.3f}", "", "")
    for row in result["rows"]:
        table.add_row(row["name"], f"{row['density']:.3f}", f"{100 * row['macs_ratio']:.1f} %", f"{row['ms']:.3f}",
                      f"{row['speedup']:.2f}", f"{100 * row['logits_apart']:.2g}")
    return table
