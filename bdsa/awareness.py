"""Awareness metrics by name: how a user's own joins those of `bdsa.method.awareness`, and how one is tried."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bdsa.errors import UserError
from bdsa.method.awareness import METRICS

Gap = Callable[[float, float], float]  # (current top-1, target top-1), both in percent -> 0 or more


def register_awareness(name: str) -> Callable[[Gap], Gap]:
    """Decorator that makes a function available as `awareness=<name>`.

    It is asked for a budget's gap where the target is not reached yet; the budgets' weights are proportional to it.

    Raises:
        UserError: if the name is taken.
    """
    if name in ("none", *METRICS):
        raise UserError(f"awareness metric '{name}' exists already: choose another name")

    def add(gap: Gap) -> Gap:
        METRICS[name] = gap
        return gap
    return add


def check_metric(metric: str, targets: Sequence[float]) -> None:
    """Try a metric where a training begins, half way and near the end.

    Raises:
        UserError: if it fails, or gives anything but a number of 0 or more.
    """
    for top1, target in ((share * t, t) for t in targets for share in (0.0, 0.5, 0.99)):
        asked = f"awareness metric {metric} of top-1 {top1:g} and target {target:g}"
        try:
            gap = METRICS[metric](top1, target)
        except Exception as error:
            raise UserError(f"{asked} fails: {type(error).__name__}: {' '.join(str(error).split())}") from error
        if isinstance(gap, bool) or not isinstance(gap, (int, float)) or not 0 <= gap < math.inf:
            raise UserError(f"{asked} is {gap!r}: it must be a number, 0 or more")
