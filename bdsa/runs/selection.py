"""Which epoch's network is kept as the best: chosen here alone, for the trainer and for every view of its rows."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bdsa.config.settings import BudgetsConfig

CALIBRATION_REACH = 3  # how many times budgets.tolerance an epoch may miss a budget where thresholds are calibrated


def epoch_tolerance(budgets: BudgetsConfig) -> float:
    """How far an epoch may miss a budget and be kept: farther where the calibration will bring it back.

    Held to the same miss as a result, the best epochs are lost for a miss that their thresholds
    then make good (experiments/LOG.md: 80.90 instead of 98 %).
    """
    return budgets.tolerance * (CALIBRATION_REACH if budgets.calibrate else 1)


def meets_budgets(rows: Sequence[dict], tolerance: float) -> bool:
    """Whether every budget's realised fraction is within `tolerance` of it."""
    return all(abs(r["conditional_fraction"] - r["budget"]) <= tolerance for r in rows)


class BestEpochs:
    """The best epoch so far, of the trained weights and of their average apart.

    Args:
        tolerance: how far an epoch may miss a budget, see `epoch_tolerance`.
        rows: of a resumed run: kind of weights -> the best epoch's rows.
    """

    def __init__(self, tolerance: float, rows: Mapping[str, Sequence[dict[str, Any]]] | None = None) -> None:
        self.tolerance, self.rows = tolerance, dict(rows or {})

    def update(self, rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Take an epoch's eval rows, each with its "weights"; return those of the kinds that it is the best of."""
        found = {}
        for weights in dict.fromkeys(row.get("weights", "raw") for row in rows):
            own = [row for row in rows if row.get("weights", "raw") == weights]
            if is_better(own, self.rows.get(weights), self.tolerance):
                self.rows[weights] = found[weights] = own
        return found


def is_better(rows: Sequence[dict], best: Sequence[dict] | None, tolerance: float) -> bool:
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
