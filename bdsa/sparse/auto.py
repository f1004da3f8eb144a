"""Which way a block is faster on this machine: sparsely up to a density, masked (dense, then multiplied) above it.

A quick calibration times every block of a network on its own input, both ways, with no, half and all positions
active. Between these the time is taken to be linear. A block that is nowhere slower by more than `TOLERANCE` always
runs sparsely: an inference without masked blocks can be recorded. One block that may run masked costs the recording,
so where blocks differ the whole inference is timed too, at each budget: all sparse, each block its own way, all masked.
What was found can be kept and used again on the same processor with as many threads. On a GPU a block goes one way for
all masks: `bdsa.sparse.gpu.ways`.
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bdsa.models.any_budget import BATCHES
from bdsa.models.deadlines import name_of
from bdsa.sparse.block_step import BlockStep
from bdsa.sparse.executor import Executor
from bdsa.sparse.recording import recorded
from bdsa.sparse.workspace import Workspace

DENSITIES = (0.0, 0.5, 1.0)
REPETITIONS = 7
TOLERANCE = 0.05  # of a masked block's time
ALWAYS, NEVER = 2.0, -1.0  # break-even densities that no mask is above, or below
WHOLE = ("sparse", "blocks", "masked")  # ways of a whole network; "blocks": each goes its own
TURNS = 3  # of a whole inference each way, after one that does not count


def batch_class(x: Tensor) -> str:
    """Batches of 1, 2 to 7, 8 to 63, 64 and more: each has its own break-even densities; a name for JSON."""
    return str(max(size for size in BATCHES if size <= max(1, len(x))))


def conditions(x: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What break-even densities depend on beside network and batch: processor or accelerator, threads, type, size."""
    return {"processor": name_of(x.device), "threads": torch.get_num_threads(),
            "precision": str(dtype).removeprefix("torch."), "image_size": list(x.shape[2:])}


def nearest(found: Sequence[dict[str, Any]], x: Tensor, dtype: torch.dtype, blocks: int, budget: str = "",
            case: str | None = None) -> list[float] | None:
    """The densities that were found for the input most like x: of its class of batch, then of its number of positions.

    None where nothing was found with this processor and type for the network's first `blocks`.

    Args:
        budget: its name, for the way of the whole network.
        case: on a GPU, what the input is a case of: others of its budget and type go first.
    """
    here, area, batch = conditions(x, dtype), x.shape[2] * x.shape[3], int(batch_class(x))
    alike = [one for one in found if all(one.get(key) == here[key] for key in ("processor", "precision"))]
    known = [(case is not None and _beside_batch(case) != _beside_batch(key), abs(math.log(_batch(key) / batch)),
              abs(math.log(math.prod(one["image_size"]) / area)), applied(whole_of(one, key, budget), densities))
             for one in alike for key, densities in one["blocks"].items() if len(densities) >= blocks]
    return min(known, key=lambda row: row[:3])[3][:blocks] if known else None


def _batch(case: str) -> int:
    """The class of batches of a case, which begins with it."""
    return int(case.split(",")[0].split()[0])


def _beside_batch(case: str) -> str:
    return case.lstrip("0123456789")


def whole_of(found: dict[str, Any], key: str, budget: str) -> str:
    """The way of the whole network at a budget, by name, that was found where `key` names the blocks' densities."""
    return found.get("whole", {}).get(f"{key}, {budget}", "blocks")


def applied(way: str, densities: Sequence[float]) -> list[float]:
    """The blocks' break-even densities where the whole network goes one of `WHOLE`."""
    return list(densities) if way == "blocks" else [ALWAYS if way == "sparse" else NEVER] * len(densities)


def whole_way(executor: Executor, densities: Sequence[float], infer: Callable[[], object]) -> str | None:
    """The fastest way of a whole network whose blocks differ; None where all of them go one way anyway.

    Args:
        executor: of a network at a budget; its ways are left at any.
        densities: of its blocks, from `calibrate`.
        infer: runs it once, with masks like those to come.
    """
    own = {density for step, density in zip(executor.blocks(), densities, strict=True) if step.plan is not None}
    if own <= {ALWAYS} or own == {NEVER}:
        return None
    least = dict.fromkeys(WHOLE, math.inf)
    for turn in range(1 + TURNS):  # in turns: what slows the machine down slows all
        for way in WHOLE:
            executor.set_break_even(applied(way, densities))
            started = time.perf_counter()
            infer()
            if turn:
                least[way] = min(least[way], time.perf_counter() - started)
    return min(least, key=least.__getitem__)


def calibrate(executor: Executor, x: Tensor) -> list[float]:
    """Find each block's break-even density, set it, and return all of them.

    Args:
        executor: of a network at a budget.
        x: [B, 3, H, W], images like those to come.
    """
    found = []
    for step, features in executor.inputs(x):
        found.append(NEVER if step.plan is None else _break_even(step, features))
    executor.set_break_even(found)
    return found


def _break_even(step: BlockStep, x: Tensor) -> float:
    """The density above which masked execution of a block is faster. x: [B, H, W, C], the block's input."""
    height, width = step.output_size(x)
    masks = [torch.zeros(len(x), height, width, dtype=torch.bool, device=x.device) for _ in DENSITIES]
    for mask, density in zip(masks, DENSITIES):
        mask[:, :round(density * height)] = True
    scratch = x.clone()  # blocks add to their input: what they compute here does not matter
    masked = _seconds(lambda: step.run_masked(scratch, masks[-1]))
    workspace = Workspace()

    def run(mask: Tensor) -> None:
        step.run_sparse(scratch, mask, step.identity(scratch, mask, workspace, "identity"))

    times = []
    for mask in masks:
        with recorded() as recording:
            run(mask)
        times.append(_seconds(recording.play if recording.complete else lambda m=mask: run(m)))
    return ALWAYS if max(times) <= (1 + TOLERANCE) * masked else crossing(DENSITIES, times, masked)


def crossing(densities: tuple[float, ...], times: list[float], level: float) -> float:
    """Where a piecewise linear time reaches a level: a density, ALWAYS if it stays below, NEVER if it starts above."""
    if times[0] >= level:
        return NEVER
    for (d0, t0), (d1, t1) in zip(zip(densities, times), zip(densities[1:], times[1:])):
        if t1 > level:
            return d0 + (d1 - d0) * (level - t0) / (t1 - t0)
    return ALWAYS


def _seconds(work: Callable[[], object]) -> float:
    """Least time of a piece of work, after one that does not count: other programs only add to it."""
    taken = []
    for _ in range(REPETITIONS + 1):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
