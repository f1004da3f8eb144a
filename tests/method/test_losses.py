"""The terms of the loss against their formulas, written out."""
from __future__ import annotations

import math

import pytest
import torch

from bdsa.method.losses import (
    block_bounds,
    block_budget_loss,
    decoupled_distillation_loss,
    distillation_loss,
    network_budget_loss,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_network_budget_loss():
    fractions = torch.tensor([0.2, 0.6, 0.7], dtype=torch.float64)
    loss = network_budget_loss(fractions, 0.3)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx((1.5 / 3 - 0.3) ** 2)


def test_block_budget_loss():
    fractions = torch.tensor([[0.1, 0.5, 1.0], [0.3, 0.5, 0.8]], dtype=torch.float64)  # means 0.2, 0.5, 0.9
    loss = block_budget_loss(fractions, lower=0.35, upper=0.6)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx((0.15 ** 2 + 0.3 ** 2) / 3)
    assert float(block_budget_loss(fractions, 0.0, 1.0)) == 0


def test_block_bounds_over_the_training():
    for budget in (0.3, 0.7):
        assert block_bounds(budget, 0.0) == pytest.approx((budget, budget))
        assert block_bounds(budget, 0.165) == pytest.approx((budget / 2, 1 - (1 - budget) / 2))
        assert block_bounds(budget, 0.33) == pytest.approx((0.0, 1.0), abs=1e-12)
        assert block_bounds(budget, 1.0) == pytest.approx((0.0, 1.0), abs=1e-12)
        p = math.cos(math.pi / 2 * 0.1 / 0.33) ** 2
        assert block_bounds(budget, 0.1) == pytest.approx((p * budget, 1 - p * (1 - budget)))
    assert block_bounds(0.5, 0.5, anneal=1.0) == pytest.approx((0.25, 0.75))


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_distillation_loss(temperature):
    student, teacher = torch.randn(3, 5).requires_grad_(), (torch.randn(3, 5) * 4).requires_grad_()
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist()):
        p_t = [math.exp(v / temperature) for v in t]
        p_s = [math.exp(v / temperature) for v in s]
        p_t, p_s = [v / sum(p_t) for v in p_t], [v / sum(p_s) for v in p_s]
        expected += sum(q * math.log(q / p) for q, p in zip(p_t, p_s)) / 3
    loss = distillation_loss(student, teacher, temperature)
    assert loss.item() == pytest.approx(temperature ** 2 * expected, rel=1e-4)
    loss.backward()
    assert student.grad is not None and teacher.grad is None
    assert distillation_loss(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-4)
    assert distillation_loss(student.half(), teacher.half(), temperature).dtype == torch.float32


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_distillation_weighs_the_classes_beside_the_label(temperature):
    """Plain distillation is the special case of beta = 1 - q, an image at a time; beta adds KL among the others."""
    student, teacher = torch.randn(3, 5).requires_grad_(), (torch.randn(3, 5) * 4).requires_grad_()
    labels = torch.tensor([4, 0, 2])
    beside = 1 - (teacher / temperature).softmax(dim=1)[torch.arange(3), labels]
    for i in range(3):
        one = student[i:i + 1], teacher[i:i + 1]
        torch.testing.assert_close(decoupled_distillation_loss(*one, labels[i:i + 1], temperature, beside[i].item()),
                                   distillation_loss(*one, temperature), rtol=1e-4, atol=1e-5)
    without = torch.arange(5).expand(3, 5)[labels[:, None] != torch.arange(5)].view(3, 4)
    loss = decoupled_distillation_loss(student, teacher, labels, temperature, 2.0)
    more = loss - decoupled_distillation_loss(student, teacher, labels, temperature, 0.5)
    torch.testing.assert_close(
        more, 1.5 * distillation_loss(student.gather(1, without), teacher.gather(1, without), temperature))
    loss.backward()
    assert student.grad.isfinite().all() and teacher.grad is None
    sure = torch.tensor([[80.0, 0, 0, 0, 0]])  # whose other classes have no probability left in float32
    assert decoupled_distillation_loss(-sure, sure, labels[1:2], 1.0, 2.0).isfinite()
    assert decoupled_distillation_loss(student.half(), teacher.half(), labels, 4.0, 1.0).dtype == torch.float32
    away = [tensor.detach().to("meta") for tensor in (student, teacher, labels)]  # no value is read
    assert decoupled_distillation_loss(*away, 4.0, 1.0).shape == ()
