"""The steered budgets: normalised mask logits, thresholds that follow the budget, a fraction that falls to it."""
from __future__ import annotations

import pytest
import torch
from torch import nn

import bdsa
from bdsa.errors import UserError
from bdsa.method.control import steer
from bdsa.method.masks import MaskUnit
from bdsa.method.schedule import target_at
from bdsa.training.objective import Objective


def test_the_wanted_fraction_falls_from_one_to_the_budget():
    assert [target_at(p, 0.3, 0.2) for p in (0, 0.1, 0.2, 1)] == pytest.approx([1, 0.65, 0.3, 0.3])
    assert target_at(0.0, 0.3, 0.0) == 0.3


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("training", [True, False])
def test_a_shift_moves_every_logit_by_the_offset(norm, training):
    unit = MaskUnit(4, norm=norm).train(training)
    x = torch.randn(3, 4, 6, 5)
    before = unit(x)
    unit.shift(-0.7)
    assert torch.allclose(unit(x), before - 0.7, atol=1e-5)


def test_normalised_logits_keep_their_spread_whatever_the_input_does():
    unit = MaskUnit(4, norm="batch")
    x = torch.randn(8, 4, 16, 16)
    for scale in (0.3, 1.0, 100.0):
        assert float(unit(scale * x).std()) == pytest.approx(1.0, abs=0.1)


def test_masks_alone_with_normalised_logits_equal_the_dense_network():
    torch.manual_seed(0)
    network = bdsa.create_model("cifar_resnet8", [0.5], num_classes=10, mask_norm="batch").eval()
    x = torch.randn(2, 3, 32, 32)
    for block in network.adaptive_blocks():
        block.mask_units["b050"].shift(100.0)
    logits, usage = network(x, budget=0.5, return_usage=True)
    assert torch.equal(logits, network(x)) and usage.conditional_fraction.tolist() == [1.0, 1.0]


def test_steering_meets_a_budget_that_the_task_works_against():
    """A constant pull of every logit upwards, as the task's: without control the masks open."""
    torch.manual_seed(0)
    units = nn.ModuleList(MaskUnit(4) for _ in range(3))
    x = torch.randn(16, 4, 8, 8)

    def after(gain: float) -> float:
        for unit in units:
            nn.init.zeros_(unit.fc.bias)
        for _ in range(60):
            fraction = torch.stack([(u(x) >= 0).float().mean() for u in units]).mean()
            steer(units, fraction, 0.3, gain)
            for unit in units:
                unit.shift(0.02)
        return float(fraction)

    assert after(1.0) == pytest.approx(0.3, abs=0.03)
    assert after(0.0) > 0.9


def test_the_objective_steers_only_the_budget_of_the_batch():
    torch.manual_seed(0)
    network = bdsa.create_model("cifar_resnet8", [0.3, 0.7], num_classes=10, mask_norm="batch")
    objective = Objective(network, control_gain=2.0)
    biases = {n: p.clone() for n, p in network.named_parameters() if n.endswith("norm.bias")}
    objective.steer(0.3, torch.tensor(0.8), 0.5)
    for name, bias in network.named_parameters():
        if name in biases:
            assert float(bias - biases[name]) == pytest.approx(-1.0 if "b030" in name else 0.0)


def test_an_unknown_norm_is_refused_by_name():
    with pytest.raises(UserError, match="mask_norm 'bach'.*did you mean 'batch'"):
        bdsa.create_model("cifar_resnet8", [0.5], num_classes=10, mask_norm="bach")
