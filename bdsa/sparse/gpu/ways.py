"""Which blocks run masked on a GPU: measured once, by replays of CUDA graphs.

A mask is never waited for, so a block goes one way for all masks of a budget. Each block is captured both ways, on
the input and with the mask that it has in the images at hand, and goes the faster one. In the end the whole inference
is compared with the one in which all blocks run masked; if it is slower by more than `auto.TOLERANCE`, that one stays.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bdsa.sparse.auto import ALWAYS, NEVER, TOLERANCE
from bdsa.sparse.gpu.executor import GpuExecutor
from bdsa.sparse.gpu.graphs import captured
from bdsa.sparse.gpu.steps import GpuBlockStep
from bdsa.sparse.workspace import Workspace

REPLAYS = 10  # of a graph between two looks at the clock
ROUNDS = 5
Seconds = Callable[[Callable[[], object]], float]


def find_ways(executor: GpuExecutor, x: Tensor, given: Sequence[Tensor] | None, seconds: Seconds | None = None
              ) -> list[float]:
    """Set and return a break-even density a block: ALWAYS for sparse execution, NEVER for masked.

    Args:
        executor: of a network at a budget.
        x: [B, 3, H, W], images like those to come.
        given: masks bool [B, 1, h, w] a block like those to come; None: the units' own.
        seconds: how long a piece of work takes; None: `replayed`, or on a CPU a run.
    """
    seconds = seconds or (replayed if x.is_cuda else _run)
    with executor.alone(x):
        blocks = executor.blocks()
        executor.set_break_even([ALWAYS] * len(blocks))
        found = [NEVER if step.plan is None else _faster(step, features, mask, seconds)
                 for step, features, mask in executor.inputs_and_masks(x, given)]
        works = []
        for ways in (found, [NEVER] * len(blocks)):
            executor.set_break_even(ways)
            works.append(seconds(lambda: executor(x, given, False)))
        if works[0] > (1 + TOLERANCE) * works[1]:
            return [NEVER] * len(blocks)
        executor.set_break_even(found)
        return found


def _faster(step: GpuBlockStep, x: Tensor, mask: Tensor, seconds: Seconds) -> float:
    """The faster way of a block for its input x [B, H, W, C] and mask bool [B, h, w]."""
    scratch, workspace = x.clone(), Workspace()  # blocks add to their input: what they compute here does not matter

    def sparse() -> None:
        step.begin(torch.zeros(4, dtype=torch.int32, device=x.device))
        step.run_sparse(scratch, mask, step.identity(scratch, mask, workspace, "identity"))

    return ALWAYS if seconds(sparse) <= seconds(lambda: step.run_masked(scratch, mask)) else NEVER


def replayed(work: Callable[[], object]) -> float:
    """Least time of a replay of work on the current device, captured as a graph; infinite where it cannot be."""
    work()
    work()
    graph = torch.cuda.CUDAGraph()
    try:
        with captured(graph, torch.device("cuda", torch.cuda.current_device())):
            work()
    except RuntimeError:
        return float("inf")
    graph.replay()
    taken = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(REPLAYS):
            graph.replay()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - started) / REPLAYS)
    return min(taken)


def _run(work: Callable[[], object]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
