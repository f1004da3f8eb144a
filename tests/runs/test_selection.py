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


def two(*pairs: tuple[float, float]) -> list[dict]:
    """Evaluations at 0.3 and 0.7: top-1 and fraction of each."""
    return [{"budget": b, "top1": top1, "conditional_fraction": fraction} for b, (top1, fraction) in
            zip((0.3, 0.7), pairs, strict=True)]


def test_every_budget_must_be_met():
    met, one_missed = two((80, 0.30), (90, 0.70)), two((95, 0.30), (99, 0.90))
    assert kept(True, met, one_missed) == met
    assert kept(True, one_missed, met) == met


def test_gains_and_losses_of_the_budgets_are_added_up():
    start = two((80, 0.3), (90, 0.7))
    more, less = two((83, 0.3), (88, 0.7)), two((82, 0.3), (87, 0.7))
    assert kept(True, start, more) == more
    assert kept(True, start, less) == start
