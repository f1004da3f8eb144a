"""Curves from offsets to fractions, and purses: what they promise, apart from any network."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bdsa.budgets import Budgets
from bdsa.errors import UserError
from bdsa.method.curves import Curve, Point, curve_of, share_at
from bdsa.method.exact import Costs, ExactBudget, Expected
from bdsa.models.points import find_point

CURVE = Curve((-1.0, 0.0, 0.5, 1.0), (0.1, 0.3, 0.4, 0.52), ((0.2, 0.0), (0.4, 0.2), (0.5, 0.3), (0.6, 0.44)), 64)
TRAINED = Budgets([0.3, 0.5, 0.7])
CURVES = {"b030": CURVE, "b050": Curve((0.0, 1.0), (0.5, 0.7), ((0.5,), (0.7,)), 64),
          "b070": Curve((0.0, 8.0), (0.7, 0.999), ((0.7,), (0.999,)), 64)}


def test_a_curve_gives_the_offset_of_what_was_measured_and_ascends_between() -> None:
    assert [CURVE.offset_at(f) for f in CURVE.fractions] == pytest.approx(CURVE.offsets)
    between = [CURVE.offset_at(0.1 + 0.42 * i / 50) for i in range(51)]
    assert between == sorted(between)
    for curve in (CURVE, replace(CURVE, crossover=0.375)):
        assert curve_of(json.loads(json.dumps(curve.plain()))) == curve
    before = {k: v for k, v in CURVE.plain().items() if k != "crossover"}
    assert curve_of(before) == curve_of({**before, "upwards": True}) == CURVE, "of files from before"
    assert curve_of({**before, "upwards": False}) == replace(CURVE, crossover=0.0), "of files from before"


@pytest.mark.parametrize("broken", [
    {"offsets": [0.0, 0.0, 0.5, 1.0]}, {"fractions": [0.1, 0.3, 0.2, 0.5]}, {"fractions": [0.1, 0.3, 0.4]},
    {"fractions": [0.1, 0.3, 0.4, 1.5]}, {"blocks": [[0.1], [0.2], [0.3], []]}, {"images": 0}, {"images": True},
    {"crossover": True}, {"crossover": 1.5}, {"crossover": "0.5"}, {"crossover": float("nan")},
    {"offsets": [0.0, 1.0, 2.0, float("nan")]}, {"offsets": "abcd"}, {"offsets": None}, {"blocks": 3}])
def test_what_is_no_curve_is_refused(broken: dict) -> None:
    with pytest.raises(ValueError, match="."):
        curve_of({**CURVE.plain(), **broken})


def test_a_trained_budget_is_itself_and_another_one_lies_between_its_neighbours() -> None:
    for budget in TRAINED:
        assert find_point(TRAINED, CURVES, budget)[1] == Point(budget.name, 0.0, budget)
    assert find_point(TRAINED, CURVES, 1.0)[1].name is None
    budget, point = find_point(TRAINED, CURVES, 0.42)
    assert (budget.name, point.name, point.budget) == ("b042", "b030", 0.42)
    assert CURVE.offsets[2] < point.offset < CURVE.offsets[3]
    assert point.blend is not None and (point.blend.first, point.blend.second) == ("b030", "b050")
    down = {**CURVES, "b030": replace(CURVE, crossover=0.0), "b050": replace(CURVE, fractions=(0.3, 0.35, 0.5, 0.6))}
    point = find_point(TRAINED, down, 0.42)[1]
    assert (point.name, point.blend) == ("b050", None) and 0.0 < point.offset < 0.5, "the next one's, moved down"
    down["b030"] = replace(CURVE, crossover=0.375)
    served = {budget: find_point(TRAINED, down, budget)[1] for budget in (0.31, 0.35, 0.37, 0.38, 0.45)}
    assert [point.name for point in served.values()] == ["b030"] * 3 + ["b050"] * 2, "each up to the crossover"
    assert [point.blend and point.blend.share for point in served.values()] == [None, 0.25, 0.25, None, None]
    assert find_point(TRAINED, CURVES, 0.9)[1].blend is None, "above the largest there is no other to blend with"


def test_norms_go_over_to_the_next_budget_in_quarters() -> None:
    shares = [share_at(0.3 + 0.2 * i / 100, 0.3, 0.5) for i in range(101)]
    assert shares == sorted(shares) and sorted({*shares}) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [share_at(0.3 + 0.2 * i / 4, 0.3, 0.5) for i in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("budget", "curves", "says"), [
    (0.2, CURVES, r"0.2 is below 0.3, the smallest .*falls off.*extrapolate=True"),
    (0.42, {}, r"0.42 was not trained .*its curves are missing: .*calibrate_curves"),
    (0.2, {}, r"0.2 was not trained .*below the smallest, 0.3, where accuracy falls off"),
    (42, CURVES, r"did you mean 0.42\?")])
def test_what_cannot_be_met_is_said(budget: float, curves: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_point(TRAINED, curves, budget)


def test_below_the_smallest_runs_where_it_is_asked_for() -> None:
    assert find_point(TRAINED, CURVES, 0.2, extrapolate=True)[1].name == "b030"
    with pytest.raises(UserError, match="outside what moved thresholds reach, 0.1"):
        find_point(TRAINED, CURVES, 0.05, extrapolate=True)


def _spend(budget: float, curve: Curve | None, scores: list[torch.Tensor]) -> torch.Tensor:
    """What images spend of the whole by blocks of 3 MACs a position and 2 where it is dilated, as float64 [B]."""
    totals = [5 * s[0].numel() for s in scores]
    purse, spent = ExactBudget(budget, Expected.of(totals, curve)), torch.zeros(len(scores[0]), dtype=torch.float64)
    for s in scores:
        wide = torch.nn.functional.max_pool2d(s, 3, 1, 1)
        mask = purse.mask(s, Costs(3, 2, (s.shape[2], s.shape[3])))
        threshold = torch.where(mask, s, torch.inf).amin(dim=(1, 2, 3))
        assert all(torch.equal(m, v >= t) for m, v, t in zip(mask, s, threshold)), "not the best-scored ones"
        spent += 3 * mask.sum(dim=(1, 2, 3)) + 2 * (wide >= threshold[:, None, None, None]).sum(dim=(1, 2, 3))
    return spent / sum(totals)


@pytest.mark.parametrize("curve", [None, CURVE])
@pytest.mark.parametrize("budget", [0.02, 0.3, 0.42, 0.9])
def test_no_image_overdraws_and_all_come_near(curve: Curve | None, budget: float) -> None:
    generator = torch.Generator().manual_seed(0)
    easy = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])[:, None, None, None]
    scores = [torch.randn(5, 1, 12, 9, generator=generator) + easy for _ in range(2)]
    spent = _spend(budget, curve, scores)
    assert (spent <= budget).all()
    assert (spent > budget - 0.02).all(), "the last block spends what is left"


def test_equal_scores_stay_together() -> None:
    flat = [torch.zeros(1, 1, 6, 6), torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))]
    assert 0 < _spend(0.4, None, flat) <= 0.4


def test_the_others_of_a_batch_change_nothing() -> None:
    scores = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = Expected.of([320], None)
    together = ExactBudget(0.3, expected).mask(scores, Costs(5))
    for i in range(3):
        assert torch.equal(together[i:i + 1], ExactBudget(0.3, expected).mask(scores[i:i + 1], Costs(5)))
