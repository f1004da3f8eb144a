"""The pure modules of the method against formulas and loops that are written out here."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bdsa.budgets import Budget, Budgets
from bdsa.errors import UserError
from bdsa.method.awareness import awareness_weights
from bdsa.method.dilation import dilate, dilate_to_input
from bdsa.method.macs import active, count_dense_macs, count_type, macs_per_position
from bdsa.method.masks import MaskUnit, gumbel_difference, straight_through
from bdsa.method.norms import add_budget_norms
from bdsa.method.schedule import noise_at, temperature_at


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- mask unit -------------------------------------------------------------------------------------

@pytest.mark.parametrize("stride, size", [(1, (5, 7)), (2, (6, 8)), (2, (7, 5)), (1, (1, 1))])
@torch.no_grad()
def test_mask_unit_logits_are_the_written_out_sum(stride, size):
    unit = MaskUnit(3, stride).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    logits = unit(x)
    height, width = (-(-n // stride) for n in size)
    assert logits.shape == (2, 1, height, width) and logits.dtype == torch.float32
    for b in range(2):
        context = sum(float(x[b, c].mean() * unit.fc.weight[0, c]) for c in range(3)) + float(unit.fc.bias)
        for i in range(height):
            for j in range(width):
                value = context + float(unit.conv.bias)
                for di in range(3):
                    for dj in range(3):
                        y, z = i * stride + di - 1, j * stride + dj - 1
                        if 0 <= y < size[0] and 0 <= z < size[1]:
                            value += float((x[b, :, y, z] * unit.conv.weight[0, :, di, dj]).sum())
                assert float(logits[b, 0, i, j]) == pytest.approx(value, abs=1e-5)


def test_mask_unit_macs_are_what_its_layers_multiply():
    unit = MaskUnit(16, stride=2)
    assert unit.macs(4, 5) == 4 * 5 * 16 * 9 + 16
    assert unit.macs(4, 5) == count_dense_macs(unit, (8, 9), channels=16)


def test_mask_unit_answers_in_float32_in_half_precision_networks():
    assert MaskUnit(4).bfloat16()(torch.randn(1, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.float32


# --- binary decision -------------------------------------------------------------------------------

def test_straight_through_is_hard_forward_and_soft_backward():
    logits = torch.tensor([-50.0, -1e-7, -0.0, 0.0, 1e-7, 0.3, 40.0]).view(1, 1, 1, 7).requires_grad_()
    for tau in (5.0, 1.0):
        mask = straight_through(logits, tau)
        assert mask.flatten().tolist() == [0, 0, 1, 1, 1, 1, 1]
        weights = torch.arange(1.0, 8.0).view_as(logits)
        gradient, = torch.autograd.grad((mask * weights).sum(), logits)
        expected, = torch.autograd.grad((torch.sigmoid(logits / tau) * weights).sum(), logits)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
    assert expected.abs().max() > 0.1


def test_straight_through_values_are_exact_everywhere():
    logits = (torch.randn(1, 1, 200, 200) * 3).requires_grad_()
    mask = straight_through(logits, 0.7)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    with torch.no_grad():
        assert torch.equal(straight_through(logits, 0.7), mask)


def test_gumbel_difference_is_a_finite_standard_logistic():
    like = torch.zeros(1000, 1, 20, 50, dtype=torch.float16)
    noise = gumbel_difference(like)
    assert noise.shape == like.shape and noise.dtype == torch.float32 and bool(noise.isfinite().all())
    count, variance = noise.numel(), math.pi ** 2 / 3
    assert abs(float(noise.mean())) < 5 * math.sqrt(variance / count)
    assert float(noise.var()) == pytest.approx(variance, rel=0.01)
    for quantile in (-3.0, -1.0, 0.5, 2.0):  # the logistic's distribution function
        below = float((noise < quantile).double().mean())
        assert below == pytest.approx(1 / (1 + math.exp(-quantile)), abs=0.003)


def test_gumbel_difference_is_finite_at_the_ends_of_the_uniform_draw(monkeypatch):
    """The draws 0 and 1 - 2^-24, one in sixteen million, would be infinite noise and a lost run."""
    ends = torch.tensor([0.0, 1 - 2.0 ** -24, 1.0, 0.5])
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: ends.clone())
    noise = gumbel_difference(torch.zeros(4))
    assert bool(noise.isfinite().all()) and float(noise[3]) == 0 and float(noise[0]) < -15 and float(noise[2]) > 15


# --- dilation --------------------------------------------------------------------------------------

def needed_inputs(mask: torch.Tensor, stride: int, size: tuple[int, int]) -> torch.Tensor:
    """The input positions that a 3x3 convolution of this stride reads for the active outputs, by loops."""
    needed = torch.zeros(mask.shape[0], 1, *size, dtype=torch.bool)
    for b, _, i, j in mask.nonzero().tolist():
        for y in range(i * stride - 1, i * stride + 2):
            for x in range(j * stride - 1, j * stride + 2):
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    needed[b, 0, y, x] = True
    return needed


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 4), (5, 12), (1, 1), (2, 3)])
def test_dilation_is_what_the_convolution_reads(stride, size):
    h, w = (-(-n // stride) for n in size)
    corner = torch.full((1, 1, h, w), -1.0)
    corner[..., -1, -1] = 1.0
    middle = torch.full((1, 1, h, w), -1.0)
    middle[..., h // 2, w // 2] = 0.0  # zero counts as active
    for logits in (torch.randn(3, 1, h, w) - 1, torch.ones(1, 1, h, w), -torch.ones(1, 1, h, w), corner, middle):
        dilated = dilate_to_input(logits, stride, size)
        assert dilated.shape == (logits.shape[0], 1, *size)
        assert torch.equal(dilated >= 0, needed_inputs(logits >= 0, stride, size))
        if stride == 1:
            assert torch.equal(dilate(logits), dilated)


def test_dilated_position_carries_the_gradient_of_its_most_certain_user():
    logits = torch.tensor([[-3.0, -2.0, 5.0, 1.0]]).view(1, 1, 1, 4).requires_grad_()
    gradient, = torch.autograd.grad(dilate(logits)[..., 1].sum(), logits)
    assert gradient.flatten().tolist() == [0, 0, 1, 0]
    gradient, = torch.autograd.grad(dilate_to_input(logits, 2, (1, 8))[..., 5].sum(), logits)
    assert gradient.flatten().tolist() == [0, 0, 1, 0]


# --- budgets ---------------------------------------------------------------------------------------

def test_budget_names():
    named = {0.3: "b030", 0.25: "b025", 0.335: "b0335", 1.0: "b100", 0.05: "b005", 0.1 + 0.2: "b030"}
    assert {v: Budget(v).name for v in named} == named


def test_budgets_are_sorted_and_named_once():
    budgets = Budgets([0.7, 1, 0.3])
    assert list(budgets) == [0.3, 0.7, 1.0] and budgets.names == ("b030", "b070", "b100") and len(budgets) == 3
    assert budgets.adaptive == (0.3, 0.7) and budgets.has_dense
    assert [b.name for b in budgets.adaptive] == ["b030", "b070"]
    assert not Budgets([0.5]).has_dense
    assert budgets == Budgets((1.0, 0.3, 0.7)) and hash(budgets) == hash(Budgets((1.0, 0.3, 0.7)))
    assert budgets != Budgets([0.3]) and repr(budgets) == "Budgets([0.3, 0.7, 1])"
    assert [budgets.at_step(k) for k in range(5)] == [0.3, 0.7, 1.0, 0.3, 0.7]


def test_budgets_that_are_refused():
    for value, message in ((0, "outside"), (-0.5, "outside"), (1.01, "outside"), (float("nan"), "outside"),
                           (30, "did you mean 0.3"), (1e-4, "below 0.001"), ("0.5", "not a number"),
                           (True, "not a number"), (None, "not a number")):
        with pytest.raises(UserError, match=message):
            Budget(value)
    for values, message in (([], "empty"), ([0.5, 0.5], "twice"), ([0.3, 0.1 + 0.2], "twice"),
                            (0.5, "not a list"), ("0.5", "not a list"), ([0.5, 2.0], "outside")):
        with pytest.raises(UserError, match=message):
            Budgets(values)


def test_a_budget_that_was_not_trained_is_refused():
    budgets = Budgets([0.3, 0.5])
    assert budgets.require(0.5).name == "b050" and budgets.require(1).is_dense
    with pytest.raises(UserError, match=r"0.55 was not trained .*0.3, 0.5, 1 \(1 is dense\)"):
        budgets.require(0.55)


# --- awareness and schedule ------------------------------------------------------------------------

def test_awareness_weights():
    top1, targets = [60.0, 66.0, 70.0], [65.0, 68.0, 69.0]  # the last one is past its target
    l1 = [1 - 60 / 65, 1 - 66 / 68, 0.0]
    assert awareness_weights("l1", top1, targets) == pytest.approx([3 * r / sum(l1) for r in l1])
    assert awareness_weights("l2", top1, targets) == pytest.approx([3 * r / 29 for r in (25, 4, 0)])
    assert awareness_weights("none", top1, targets) == [1, 1, 1]
    for metric in ("l1", "l2"):
        assert awareness_weights(metric, [70.0, 69.0], [65.0, 69.0]) == [1, 1]  # no gap
        assert awareness_weights(metric, [50.0], [65.0]) == [1]
        for count in (2, 5):
            weights = awareness_weights(metric, [50.0 + 3 * k for k in range(count)], [60.0] * count)
            assert sum(weights) == pytest.approx(count) and min(weights) >= 0
            assert weights == sorted(weights, reverse=True)


def test_temperature_and_noise():
    assert [temperature_at(e, (30, 60)) for e in (0, 29, 30, 59.9, 60, 1000)] == [5, 5, 2.5, 2.5, 1, 1]
    assert [temperature_at(e, (2,), (3.0, 0.5)) for e in (0, 2)] == [3, 0.5]
    assert [noise_at(e, 100) for e in (0, 79, 80, 99)] == [True, True, False, False]
    assert noise_at(4, 10, until=0.5) and not noise_at(5, 10, until=0.5)


# --- MACs and norms --------------------------------------------------------------------------------

def test_macs_per_position_counts_the_products():
    assert macs_per_position(nn.Conv2d(8, 16, 3)) == 8 * 16 * 9
    assert macs_per_position(nn.Conv2d(8, 8, 7, groups=8)) == 8 * 49
    assert macs_per_position(nn.Conv2d(8, 16, (1, 3), groups=4), nn.Linear(5, 7)) == 2 * 16 * 3 + 35
    with pytest.raises(TypeError, match="BatchNorm2d"):
        macs_per_position(nn.BatchNorm2d(8))


def test_active_counts_exactly_and_with_gradient():
    mask = torch.ones(2, 1, 4100, 4100).requires_grad_()  # 16.81 M positions, past float32's integers
    count = active(mask)
    assert count.dtype == torch.float64 and count.tolist() == [4100 ** 2] * 2
    assert float(torch.autograd.grad(active(mask[:, :, :2, :2]).sum(), mask)[0].sum()) == 8
    assert count_type(torch.device("mps")) == torch.float32  # Apple's GPUs have no float64


def test_norms_of_other_types_are_refused():
    with pytest.raises(TypeError, match="GroupNorm; supported: BatchNorm2d"):
        add_budget_norms(nn.GroupNorm(2, 4), ["b050"], "separate")


@pytest.mark.parametrize("momentum", [0.1, None])
def test_shared_statistics_follow_torchs_batch_norm(momentum):
    norm, twin = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    nn.init.normal_(norm.weight)
    twin.load_state_dict(norm.state_dict())
    add_budget_norms(norm, ["b050"], "shared")
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5) * 2 + 1
        assert torch.equal(norm(x, "b050"), twin(x))
    norm.eval(), twin.eval()
    assert torch.equal(norm(x, "b050"), twin(x))
    assert norm.running_mean.abs().max() == 0  # the dense statistics are untouched
