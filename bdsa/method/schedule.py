"""What changes while training: the temperature of the masks and their noise."""
from __future__ import annotations

from collections.abc import Sequence


def temperature_at(epoch: float, switches: Sequence[float], values: Sequence[float] = (5.0, 2.5, 1.0)) -> float:
    """Temperature tau of the masks at an epoch.

    Args:
        epoch: epochs done so far (0 at the start).
        switches: epochs at which the next value starts; one fewer than `values`.
        values: the temperatures in order.
    """
    passed = sum(epoch >= s for s in switches)
    return values[min(passed, len(values) - 1)]


def noise_at(epoch: float, epochs: float, until: float = 0.8) -> bool:
    """Whether the Gumbel noise is on: during the first `until` (a share) of the epochs."""
    return epoch < until * epochs
