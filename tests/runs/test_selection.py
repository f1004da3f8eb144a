"""Which epoch's network a run keeps."""
from __future__ import annotations

from bdsa.config.settings import BudgetsConfig
from bdsa.runs.selection import epoch_tolerance, is_better


def rows(top1: float, fraction: float) -> list[dict]:
    """One budget's evaluation."""
    return [{"budget": 0.7, "top1": top1, "conditional_fraction": fraction}]


def kept(calibrate: bool, *epochs: list[dict]) -> list[dict]:
    """The epoch that is left as the best."""
    best = None
    for epoch in epochs:
        if is_better(epoch, best, epoch_tolerance(BudgetsConfig(calibrate=calibrate))):
            best = epoch
    return best


def test_a_small_miss_does_not_cost_a_better_epoch_where_thresholds_follow():
    early, late = rows(81.5, 0.71), rows(98.6, 0.74)
    assert kept(True, early, late) == late
    assert kept(False, early, late) == early


def test_a_large_miss_is_never_bought():
    met, spent = rows(95.0, 0.70), rows(99.0, 0.85)
    assert kept(True, met, spent) == met
    assert kept(True, spent, met) == met


def test_while_none_meets_the_budget_the_later_epoch_stays():
    first, second = rows(90.0, 0.9), rows(60.0, 0.5)
    assert kept(True, first, second) == second
