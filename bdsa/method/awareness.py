"""Target-performance awareness: budgets that lag behind their target weigh more (docs/method.md, section 7)."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bdsa.errors import UserError

Gap = Callable[[float, float], float]  # (current top-1, target top-1), both in percent -> 0 or more

METRICS: dict[str, Gap] = {
    "l1": lambda top1, target: 1.0 - top1 / target,
    "l2": lambda top1, target: (target - top1) ** 2,
}


def awareness_weights(metric: str, top1: Sequence[float], targets: Sequence[float]) -> list[float]:
    """Weight w_b of each budget's loss, summing to the number of budgets.

    Args:
        metric: "none", "l1" or "l2", or another key of `METRICS`.
        top1: current top-1 of each budget, percent.
        targets: target top-1 of each budget, percent, all above zero.

    Returns:
        N * r_b / sum(r), with r_b the metric's gap where the budget is below its target and zero
        where it is not; all ones for "none" and where no budget is below its target.
    """
    count = len(top1)
    if metric == "none":
        return [1.0] * count
    gap = METRICS[metric]
    r = [gap(a, t) if a < t else 0.0 for a, t in zip(top1, targets, strict=True)]
    total = sum(r)
    return [count * x / total for x in r] if total > 0 else [1.0] * count


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
