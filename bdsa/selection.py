"""Which epoch's network is kept as the best."""
from __future__ import annotations


def meets_budgets(rows: list[dict], tolerance: float) -> bool:
    """Whether every budget's realised fraction is within `tolerance` of it."""
    return all(abs(r["conditional_fraction"] - r["budget"]) <= tolerance for r in rows)


def is_better(rows: list[dict], best: list[dict] | None, tolerance: float) -> bool:
    """Whether an epoch's rows beat the best epoch's: budgets met first, then the sum of top-1 gains.

    A network that spends more than it was given is more accurate for free; without the first
    rule an early epoch that misses its budgets would win. While none has met them, the later
    epoch is kept: its accuracy says nothing yet, and it was trained for longer.

    Args:
        rows: the trained budgets' rows of this epoch.
        best: those of the checkpoint kept so far, or None.
        tolerance: see `meets_budgets`.
    """
    if best is None:
        return True
    met, best_met = meets_budgets(rows, tolerance), meets_budgets(best, tolerance)
    if not (met and best_met):
        return met or not best_met
    return sum(now["top1"] - before["top1"] for now, before in zip(rows, best, strict=True)) > 0
