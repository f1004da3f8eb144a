"""bdsa-benchmark what=latency: an adaptive network at its budgets against the fastest dense engines."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bdsa.budgets import Budget
from bdsa.commands.benchmark.engines import check_agreement, dense_engines, missing
from bdsa.commands.benchmark.folder import benchmark_folder, check_alone
from bdsa.commands.benchmark.latency_report import break_even, report, speedup_picture
from bdsa.commands.benchmark.profile import write_profiles
from bdsa.commands.benchmark.subject import Subject, find_subject
from bdsa.commands.benchmark.synthetic_masks import block_shapes, synthetic_masks
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.image_size import as_set
from bdsa.errors import UserError
from bdsa.machine import processor
from bdsa.models.dense_copy import dense_copy
from bdsa.report.progress import progress_bar
from bdsa.runs.environment import environment
from bdsa.runs.files import check_writable, write_json
from bdsa.sparse.latency import Engine, network_engine, time_engines

INPUTS = 4  # that take turns, at least: an engine must not get used to one
IMAGES = 16  # of all inputs together, at least: the cost of a network's own masks depends on the image


def benchmark(config: BenchmarkConfig, named: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Measure every batch size, print its table and write its benchmark.json; return their contents.

    The folder holds benchmark.json and speedup.png of the batch size; of several, each has a folder batch<N> in it.

    Args:
        config: all settings.
        named: the settings that the command line names: with a checkpoint, the others are the checkpoint's.

    Raises:
        UserError: for bad input, before anything is written.
    """
    check_alone()
    check_device(config)
    lacking = [reason for reason in map(missing, config.latency.peers) if reason]
    peers = [peer for peer in config.latency.peers if missing(peer) is None]
    if not peers:
        raise UserError(f"no dense engine is left to compare with: {'; '.join(lacking)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    sizes = config.latency.batch_sizes
    subject = find_subject(config, named, max(IMAGES, INPUTS * max(sizes)))
    home = benchmark_folder(config, subject.source, subject.name, "cpu")
    check_writable(home)
    results = []
    for size in sizes:
        folder = home / f"batch{size}" if len(sizes) > 1 else home
        inputs, masks = batches(subject, size, config)
        result = {**measured(config, subject, peers, inputs, masks), "missing": lacking, "load_before": load,
                  "cores": os.cpu_count(), "environment": environment("cpu"), "settings": asdict(config)}
        write_json(folder / "benchmark.json", result)
        speedup_picture(result, folder / "speedup.png")
        report(result, folder)
        if config.latency.profile:
            write_profiles(subject.network, inputs, masks, result, folder)
        results.append(result)
    return results


def measured(config: BenchmarkConfig, subject: Subject, peers: Sequence[str], inputs: Sequence[Tensor],
             masks: Mapping[float, Sequence[list[Tensor]]]) -> dict[str, Any]:
    """Time the dense engines and every budget on inputs of one batch size: what benchmark.json says of it."""
    latency = config.latency
    size, dense = len(inputs[0]), dense_copy(subject.network)
    with progress_bar() as bar:
        task = bar.add_task(f"batch {size}: building", total=None)
        engines = dense_engines(peers, dense, inputs)
        rows = [accounted(config, subject, budget, inputs, masks.get(budget)) for budget in subject.budgets]
        engines.update({row["name"]: row.pop("engine") for row in rows})
        bar.update(task, description=f"batch {size}", total=len(engines) * (latency.rounds + 1))
        ms = time_engines(engines, len(inputs), latency.rounds, latency.seconds, lambda: bar.advance(task))
    made = {name: each for name, each in ms.items() if name in peers}
    medians = {name: median(each) for name, each in made.items()}
    best = min(medians, key=medians.__getitem__)
    timed = [timed_row(row, ms[row["name"]], medians[best]) for row in rows]
    return {"what": config.what, "model": subject.name, "batch_size": size, "threads": torch.get_num_threads(),
            "processor": processor(), "image_size": as_set(inputs[0].shape[2:]), "masks": latency.asked_masks,
            "images": subject.source, "execution": latency.execution, "peers": medians, "best_peer": best,
            "best_dense_ms": medians[best], "rows": timed, "break_even": break_even(timed), "peer_rounds_ms": made,
            "rounds": latency.rounds, "seed": config.trainer.seed}


def check_device(config: BenchmarkConfig) -> None:
    """Raise UserError for an accelerator: what is skipped is skipped on the CPU."""
    if config.trainer.device not in ("auto", "cpu"):
        raise UserError(f"trainer.device={config.trainer.device}: what=latency measures the CPU; leave it out")


def batches(subject: Subject, size: int, config: BenchmarkConfig
            ) -> tuple[list[Tensor], dict[float, list[list[Tensor]]]]:
    """The inputs [size, 3, H, W] that take turns, and by budget a list of masks for each of them.

    A budget has no masks where the network's own are used, nor has the dense one.
    """
    count = max(INPUTS, -(-IMAGES // size))
    images = subject.images[:count * size].contiguous(memory_format=torch.channels_last)
    inputs = list(images.split(size))
    if config.latency.asked_masks == "model":
        return inputs, {}
    shapes = block_shapes(subject.network, tuple(images.shape[2:]))
    masks = {}
    for budget in (b for b in subject.budgets if not b.is_dense):
        whole = synthetic_masks(shapes, budget, len(images), config.trainer.seed, config.latency.blob)
        masks[budget] = [list(each) for each in zip(*(mask.split(size) for mask in whole), strict=True)]
    return inputs, masks


def accounted(config: BenchmarkConfig, subject: Subject, budget: Budget, inputs: Sequence[Tensor],
              masks: Sequence[list[Tensor]] | None) -> dict[str, Any]:
    """A row without its times: what the budget runs on the inputs, on average, and the engine to be timed.

    Raises:
        UserError: if the execution gives other logits than masked execution.
    """
    network = subject.network
    dense = network.dense_macs(tuple(inputs[0].shape[2:]))
    engine: Engine = network_engine(network, inputs, budget, config.latency.execution, masks)
    density, fraction, macs = [], [], []
    with torch.inference_mode():
        for number, x in enumerate(inputs):
            network.execution = "masked"
            logits, usage = network(x, budget=budget, return_usage=True,
                                    masks=None if masks is None else masks[number])
            density.append(sum(float(m.float().mean()) for m in usage.masks) / len(usage.masks))
            fraction.append(float(usage.conditional_fraction.mean()))
            macs.append(float(usage.macs.mean()))
            if number == 0:
                for _ in range(2):  # the first may be recorded, and the second played
                    check_agreement(f"latency.execution={config.latency.execution}", engine(0), logits)
    mean = {"density": density, "conditional_fraction": fraction, "macs_ratio": [m / dense for m in macs]}
    return {"name": budget.name, "budget": float(budget), "engine": engine,
            **{key: sum(values) / len(values) for key, values in mean.items()}}


def timed_row(row: dict[str, Any], rounds_ms: list[float], best_dense_ms: float) -> dict[str, Any]:
    """The row with its times: speedup over the fastest dense engine, and efficiency, its share of 1 / macs_ratio."""
    ms = median(rounds_ms)
    speedup = best_dense_ms / ms
    return {**row, "ms": ms, "speedup": speedup, "efficiency": speedup * row["macs_ratio"], "rounds_ms": rounds_ms}
