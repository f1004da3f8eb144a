"""What changes while training: the temperature of the masks and their noise."""
from __future__ import annotations

from collections.abc import Sequence

ROUNDING = 1 - 1e-9  # shares of a whole become points of it with an error in their last digit


def usual_switches(temperatures: int) -> list[float]:
    """Shares of the training where each next of so many temperatures starts: 0.3, 0.6, ..., the last at most 0.9."""
    between = max(1, temperatures - 1)
    return [min(0.3, 0.9 / between) * (i + 1) for i in range(temperatures - 1)]


def temperature_at(epoch: float, switches: Sequence[float], values: Sequence[float] = (5.0, 2.5, 1.0)) -> float:
    """Temperature tau of the masks at an epoch.

    Args:
        epoch: epochs done so far (0 at the start).
        switches: epochs at which the next value starts; one fewer than `values`.
        values: the temperatures in order.
    """
    passed = sum(epoch >= s * ROUNDING for s in switches)
    return values[min(passed, len(values) - 1)]


def noise_at(epoch: float, epochs: float, until: float = 0.8) -> bool:
    """Whether the Gumbel noise is on: during the first `until` (a share) of the epochs."""
    return epoch < until * epochs * ROUNDING


def target_at(progress: float, budget: float, warmup: float) -> float:
    """The fraction wanted at a point of the training: from all positions down to the budget.

    Args:
        progress: share of the training that is done, 0..1.
        budget: b in (0, 1].
        warmup: share of the training over which the fraction falls; 0 asks for the budget at once.
    """
    if progress >= warmup:
        return budget
    return budget + (1.0 - budget) * (1.0 - progress / warmup)
