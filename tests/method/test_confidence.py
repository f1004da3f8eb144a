"""How sure answers are, and which images a mean budget pays a second look for: apart from any network."""
from __future__ import annotations

import json
import math

import pytest
import torch

from bdsa.errors import UserError
from bdsa.method.cascade import Confidence, confidence, confidence_of
from bdsa.models.points import mean_budget

VALUES = torch.arange(1000) / 100
KNOWN = Confidence.of((0.3, 1.0), (0.31, 1.0), VALUES[torch.randperm(1000, generator=torch.Generator().manual_seed(0))])


def test_confidence_ranks_as_the_likeliest_class_does_where_its_probability_is_one_in_float32() -> None:
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)).double()
    best = logits.softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(confidence(logits), (best / (1 - best)).log().float())
    sure = torch.tensor([[40.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    assert sure.softmax(dim=1)[:, 0].tolist() == [1.0, 1.0]
    assert confidence(sure)[0] < confidence(sure)[1]


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.61, 0.9])
def test_the_looks_cost_the_budget_as_a_mean(budget: float) -> None:
    twice = (KNOWN.threshold(budget) > VALUES).float().mean()
    assert float(twice) + 0.31 == pytest.approx(budget, abs=0.0015)


def test_at_the_ends_no_image_or_every_one_is_looked_at_twice_whatever_its_confidence() -> None:
    assert KNOWN.threshold(0.3) == -math.inf
    few = Confidence.of((0.2, 0.6), (0.2, 0.6), VALUES)
    assert few.most == pytest.approx(0.8) and few.threshold(0.8) == math.inf


def test_what_was_measured_comes_back_from_a_file() -> None:
    assert len(KNOWN.levels) == 1000 and KNOWN.images == 1000
    assert confidence_of(json.loads(json.dumps(KNOWN.plain()))) == KNOWN


@pytest.mark.parametrize("broken", [
    {"budgets": [1.0, 0.3]}, {"budgets": [0.3]}, {"budgets": 0.3}, {"fractions": [0.0, 1.0]}, {"fractions": [0.3, 1.2]},
    {"fractions": ["a", 1.0]}, {"levels": [1.0]}, {"levels": [0.0, 2.0, 1.0]}, {"levels": [0.0, float("nan")]},
    {"levels": [0.0, 1.0] * 600}, {"levels": None}, {"images": 0}, {"images": True}, {"images": 1.5}])
def test_what_no_measurement_gives_is_refused(broken: dict) -> None:
    with pytest.raises(ValueError, match="."):
        confidence_of({**KNOWN.plain(), **broken})


@pytest.mark.parametrize(("known", "budget", "says"), [
    (KNOWN, 0.2, "0.2 is below 0.3, at which this cascade looks at every image"),
    (Confidence.of((0.2, 0.6), (0.2, 0.6), VALUES), 0.9, "0.9 is above 0.8.* at 0.2 and 0.6"),
    (None, 0.5, "bdsa.calibrate_confidence"), (KNOWN, 1.5, "1.5")])
def test_a_budget_that_no_two_looks_have_is_refused(known: Confidence | None, budget: float, says: str) -> None:
    with pytest.raises(UserError, match=says):
        mean_budget(known, budget)
