"""Target-performance awareness: budgets that lag behind their target weigh more (paper, section 3.5)."""
from __future__ import annotations

from collections.abc import Callable, Sequence

METRICS: dict[str, Callable[[float, float], float]] = {
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
