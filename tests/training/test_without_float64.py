"""Devices without float64, such as Apple's GPUs: masked networks train, are evaluated and hold exact budgets there."""
from __future__ import annotations

import pytest
import torch
from steps import batch, make_step
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdsa.method import macs
from bdsa.method.exact import Ahead, Costs, best_within
from bdsa.training.evaluation import evaluate, evaluated_budgets

CPU = torch.device("cpu")


class WithoutFloat64(TorchDispatchMode):
    """A device that has no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        types = {t.dtype for t in tree_leaves(made) if isinstance(t, torch.Tensor) and t.device.type != "meta"}
        assert torch.float64 not in types, function
        return made


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(macs, "WITHOUT_FLOAT64", ("cpu",))
    return WithoutFloat64


def test_a_step_and_an_evaluation_ask_for_none(without_float64):
    step = make_step(budgets=(0.3, 1.0), control_gain=2.0, teacher={"kind": "self"}, trainer={"amp": "bfloat16"})
    with without_float64():
        for number in range(2):
            step(number, *batch(number))
        found = evaluate(step.network, [batch(0)], evaluated_budgets(step.network), CPU).rows
    exact = evaluate(step.network, [batch(0)], evaluated_budgets(step.network), CPU).rows
    assert [row["images"] for row in found] == [4, 4] and found == [
        {key: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value for key, value in row.items()}
        for row in exact]


def test_purses_of_exact_budgets_ask_for_none(without_float64):
    logits, costs = batch(0)[0][:, :1], Costs(100, 10, (32, 32))
    curve = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([9e3, 5e4], dtype=torch.float64)  # on the host
    left, ahead = torch.full((4,), 6e4), Ahead(*curve)
    with without_float64():
        mask, rest = best_within(logits, left, costs, ahead)
    exactly, exact_rest = best_within(logits, left.double(), costs, ahead)
    assert torch.equal(mask, exactly) and mask.any() and torch.equal(rest.double(), exact_rest)
