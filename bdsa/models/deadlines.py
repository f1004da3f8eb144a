"""What was measured of a network's budgets against the clock, and which of them meets a deadline; see `bdsa.plan`."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from bdsa.errors import UserError
from bdsa.machine import processor

RESERVE = 0.05  # of a deadline: what was measured once is not held to the last microsecond


def name_of(device: torch.device) -> str:
    """What a device is: the GPU's or the processor's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@dataclass(frozen=True)
class Measured:
    """Milliseconds of an inference at a budget: the median, and what the plan's percentile will hardly exceed."""
    budget: float
    median_ms: float
    ms: float


@dataclass(frozen=True)
class Plan:
    """How long a network's budgets take on one machine, for one shape of input.

    Attributes:
        latency_ms: the deadline that it was made for.
        shape: of the input, (B, C, H, W).
        percentile: of the inferences that are within a row's `ms`.
        per_image: whether no image may exceed its budget.
        execution, precision, processor, threads: what it was measured with; of a network on a GPU, that one's name.
        rounds: inferences at each budget.
        table: a row a budget, ascending.
    """
    latency_ms: float
    shape: tuple[int, ...]
    percentile: float
    per_image: bool
    execution: str
    precision: str
    processor: str
    threads: int
    rounds: int
    table: tuple[Measured, ...]

    @property
    def budget(self) -> float:
        """The largest budget that meets the deadline."""
        return self.budget_for(self.latency_ms)

    def budget_for(self, latency_ms: float) -> float:
        """The largest measured budget that meets a deadline, with a reserve of a twentieth.

        Raises:
            UserError: for a deadline that even the smallest does not meet.
        """
        meeting = [row.budget for row in self.table if row.ms * (1 + RESERVE) <= latency_ms]
        if not meeting:
            fastest = min(self.table, key=lambda row: row.ms)
            raise UserError(f"latency_ms={latency_ms:g} is below the fastest: budget {fastest.budget:g} takes up to "
                            f"{fastest.ms:.3g} ms for {self.percentile:g} % of the inputs {list(self.shape)} here, and "
                            f"a twentieth is kept in reserve: give {fastest.ms * (1 + RESERVE):.3g} or more")
        return max(meeting)

    @property
    def conditions(self) -> tuple[Any, ...]:
        """What an inference must have in common with the plan's."""
        return self.shape, self.execution, self.precision, self.processor, self.threads


def budget_within(plans: Iterable[Plan], latency_ms: float, conditions: tuple[Any, ...]) -> tuple[float, bool]:
    """The budget of the plan of these `conditions`, and whether no image may exceed it.

    Raises:
        UserError: where none fits, or the deadline cannot be met.
    """
    if isinstance(latency_ms, bool) or not isinstance(latency_ms, (int, float)) or not latency_ms > 0:
        raise UserError(f"latency_ms={latency_ms!r} is no number of milliseconds above zero")
    for plan in plans:
        if plan.conditions == conditions:
            return plan.budget_for(latency_ms), plan.per_image
    shape, execution, precision, _, threads = conditions
    batch, _, height, width = shape
    size = height if height == width else [height, width]
    raise UserError(f"no plan says how long inputs {list(shape)} take in {execution} execution, {precision}, {threads} "
                    f"thread{'s' * (threads > 1)} here: bdsa.plan(network, latency_ms={latency_ms:g}, "
                    f"batch_size={batch}, image_size={size}) measures it")
