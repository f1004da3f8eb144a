"""A dense engine: who runs the network, at which precision, and how far its logits are from float32's."""
from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bdsa.sparse.latency import Engine

TRIALS = 5  # of each way, after one that does not count


@dataclass
class DenseEngine:
    """One engine at one precision.

    Attributes:
        name: of the engine, one of `latency.peers`.
        precision: that it computes in.
        run: runs it on an input, by number.
        way: how it was brought to this precision; empty where there is only one way.
        logits_apart: the largest difference from float32's logits, as a share of their spread.
    """
    name: str
    precision: str
    run: Engine
    way: str = ""
    logits_apart: float = 0.0

    @property
    def title(self) -> str:
        """What to call it: "openvino in bfloat16"."""
        return f"{self.name} in {self.precision}"


def logits_of(engine: Engine, inputs: int) -> Tensor:
    """An engine's logits of all inputs, one after the other: float32 [inputs * B, classes]."""
    with torch.inference_mode():
        return torch.cat([torch.as_tensor(engine(number)).float().clone() for number in range(inputs)])


def fastest_way(ways: Mapping[str, Engine]) -> str:
    """Which of several ways to run an engine takes the least time on the first input; other programs only add to it."""
    def seconds(run: Engine) -> float:
        taken = []
        for _ in range(1 + TRIALS):
            started = time.perf_counter()
            run(0)
            taken.append(time.perf_counter() - started)
        return min(taken[1:])

    with torch.inference_mode():
        return min(ways, key=lambda way: seconds(ways[way]))
