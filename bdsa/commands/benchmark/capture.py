"""Work as one CUDA graph: what is left of its time when the host has nothing to do.

It has not been run on a GPU yet.
"""
from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from bdsa.sparse.gpu.device import current
from bdsa.training.step import TrainStep

log = logging.getLogger(__name__)
WARM_UP = 3  # rounds before the capture: all is compiled, and optimisers have their state


def captured_steps(name: str, step: TrainStep, steps: Callable[[], None]) -> Callable[[], object] | None:
    """A replay of training steps, or None and a line that says why they cannot be captured.

    A graph repeats the steps with the rates that they were captured with, which does not matter to a benchmark.

    Args:
        name: of the steps.
        step: whose optimiser they use; it has not been called yet.
        steps: the steps. They wait for nothing, and draw from the device's own generator.
    """
    for group in step.optimizer.param_groups:
        if "capturable" in group:  # Adam counts its updates on the host otherwise
            group["capturable"] = True
    return captured(name, steps)


def captured(name: str, work: Callable[[], object]) -> Callable[[], object] | None:
    """A replay of any work that waits for nothing, or None and a line that says why it cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with current(torch.device("cuda", torch.cuda.current_device())), torch.cuda.graph(graph):
            work()
    except RuntimeError as error:
        log.warning(f"{name} cannot be captured as a CUDA graph: {str(error).splitlines()[0]}")
        return None
    return graph.replay
