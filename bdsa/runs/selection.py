"""Which epoch's network is kept as the best."""
from __future__ import annotations

from bdsa.config.settings import BudgetsConfig

CALIBRATION_REACH = 3  # how many times budgets.tolerance an epoch may miss a budget where thresholds are calibrated


def epoch_tolerance(budgets: BudgetsConfig) -> float:
    """How far an epoch may miss a budget and be kept: farther where the calibration will bring it back.

    Held to the same miss as a result, the best epochs are lost for a miss that their thresholds
    then make good (experiments/LOG.md: 80.90 instead of 98 %).
    """
    return budgets.tolerance * (CALIBRATION_REACH if budgets.calibrate else 1)


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
