"""The public objective: a loop of one's own learns what bdsa-train learns, also where the network is deep inside."""
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sparse_cases import images_of, network_of
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader
from torchvision.models._utils import IntermediateLayerGetter

import bdsa
from bdsa.config.settings import BudgetsConfig, RecipeConfig, TeacherConfig
from bdsa.errors import UserError
from bdsa.method.losses import decoupled_distillation_loss
from bdsa.method.schedule import noise_at, temperature_at
from bdsa.models.measuring import measuring
from bdsa.training.batch_losses import BatchLosses, temperature_switches

LABELS = torch.tensor([1, 2])
MULTISTEP = {"schedule": "multistep", "milestones": [3, 6, 9]}


class Holder(nn.Module):
    """Someone's module around a network, which knows nothing of budgets."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network_of("cifar_resnet8")

    def forward(self, images):
        return self.body(images)


def test_its_losses_are_those_of_the_commands():
    network, images = network_of("cifar_resnet8").train(), images_of((2, 32, 32))
    network.eval()  # no statistics move between the calls
    recipe = RecipeConfig(epochs=4)
    of_command = BatchLosses(network, BudgetsConfig(price=0.1), recipe, TeacherConfig(), None)
    objective = bdsa.Objective(network, price=0.1)
    for epoch, budget in ((0, 0.4), (3, 0.7), (3, 1.0)):
        torch.manual_seed(0)
        expected = of_command(network, images, LABELS, budget, epoch, epoch / 4, 1.0)
        torch.manual_seed(0)
        logits, usage = network(images, **objective.asks(budget, epoch, 4))
        found = objective(F.cross_entropy(logits, LABELS), usage, budget, epoch, 4)
        assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in found)
        assert ("network" in found) == (budget < 1)


@pytest.mark.parametrize("budget, done", [(0.4, 1), (0.7, 4), (0.4, 9), (1.0, 4)])
def test_the_total_is_the_sum_that_the_method_writes(budget, done):
    """docs/method.md, section 6, written out; the fraction falls to the budget in a fifth of the training."""
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    objective = bdsa.Objective(network, task_weight=0.3, network_weight=7, block_weight=5, price=2, anneal=0.5,
                               warmup=0.2, distillation_weight=0.6, distillation_temperature=3)
    logits, usage = network(images, **objective.asks(budget, done, 10))
    teacher, task = torch.randn(2, 10), F.cross_entropy(logits, LABELS)
    found = objective(task, usage, budget, done, 10, weight=1.7, student=logits, teacher=teacher)

    kd = 9 * (teacher / 3).softmax(1).mul((teacher / 3).log_softmax(1) - (logits / 3).log_softmax(1)).sum() / 2
    expected = 0.3 * task + 0.6 * kd
    if budget < 1:
        wanted = {1: 0.7, 4: 0.7, 9: 0.4}[done]  # after a half of the fall from 1 to 0.4; at 0.7; at 0.4
        free = {1: math.cos(math.pi / 10) ** 2, 4: math.cos(math.pi * 0.4) ** 2, 9: 0}[done]
        fraction, blocks = usage.loss_fraction.mean(), usage.loss_block_fractions.mean(0)
        above = (blocks - (1 - free * (1 - wanted))).clamp(min=0)
        below = (free * wanted - blocks).clamp(min=0)
        expected = expected + 7 * (fraction - wanted) ** 2 + 5 * (above ** 2 + below ** 2).mean() + 2 * fraction
    torch.testing.assert_close(found["total"].double(), 1.7 * expected.double(), rtol=1e-5, atol=0)


def test_decoupled_distillation_needs_a_label_an_image():
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    objective = bdsa.Objective(network, distillation_weight=0.5, distillation_temperature=3, distillation_beta=2)
    logits, usage = network(images, **objective.asks(1.0, 0))
    teacher, task = torch.randn(2, 10), F.cross_entropy(logits, LABELS)
    found = objective(task, usage, 1.0, 0, student=logits, teacher=teacher, labels=LABELS)
    torch.testing.assert_close(found["kd"], decoupled_distillation_loss(logits, teacher, LABELS, 3, 2))
    torch.testing.assert_close(found["total"], task + 0.5 * found["kd"])
    for labels, part in ((None, "none are given"), (F.one_hot(LABELS, 10).float(), "torch.float32")):
        with pytest.raises(UserError, match=f"distillation_beta=2 needs labels.*{part}"):
            objective(task, usage, 1.0, 0, student=logits, teacher=teacher, labels=labels)
    with pytest.raises(UserError, match="distillation_beta=-1"):
        bdsa.Objective(network, distillation_beta=-1)


def test_temperature_and_noise_follow_the_training():
    objective = bdsa.Objective(network_of("cifar_resnet8"), differentiable_dilation=False, published_cost=True)
    asked = [objective.asks(0.4, done, 20) for done in (0, 5, 6, 11, 12, 15, 16, 19)]
    assert [a["temperature"] for a in asked] == [5, 5, 2.5, 2.5, 1, 1, 1, 1]
    assert [a["noise"] for a in asked] == [True] * 6 + [False] * 2
    assert not any(a["differentiable_dilation"] for a in asked) and all(a["published_cost"] for a in asked)
    usual = bdsa.Objective(objective.network).asks(0.4, 0)
    assert usual["differentiable_dilation"] and not usual["published_cost"]


@pytest.mark.parametrize("budgets, recipe, expected", [
    ({}, {}, [0.3, 0.6]), ({"switches": [0.1, 0.2]}, MULTISTEP, [0.1, 0.2]), ({}, MULTISTEP, [0.25, 0.5]),
    ({}, {**MULTISTEP, "milestones": [3]}, [0.3, 0.6]), ({}, {**MULTISTEP, "schedule": "cosine"}, [0.3, 0.6]),
    ({"temperatures": [2.0, 1.0]}, MULTISTEP, [0.25]), ({"temperatures": [2.0, 1.0]}, {}, [0.3]),
    ({"temperatures": [1.0]}, {}, []), ({"temperatures": [5, 4, 3, 2, 1]}, {}, [0.225, 0.45, 0.675, 0.9])])
def test_the_temperature_falls_with_the_rate_where_that_has_milestones(budgets, recipe, expected):
    """At the first two milestones of the learning rate (ResNet), or at 30 % and 60 % (ConvNeXt)."""
    found = temperature_switches(BudgetsConfig(**budgets), RecipeConfig(epochs=12, **recipe))
    assert found == pytest.approx(expected)
    if recipe.get("schedule") != "multistep" and "switches" not in budgets:
        assert bdsa.Objective(network_of("cifar_resnet8"), **budgets).switches == found


@pytest.mark.parametrize("epochs", [50, 100, 120, 200, 300, 350])
def test_the_temperature_falls_in_the_epoch_of_the_milestone(epochs):
    """Whatever the rounding of a milestone's share of the epochs does; so does the noise's end."""
    late = []
    for milestone in range(1, epochs):
        recipe = RecipeConfig(epochs=epochs, schedule="multistep", milestones=[milestone])
        switches = [s * epochs for s in temperature_switches(BudgetsConfig(temperatures=[2.0, 1.0]), recipe)]
        around = [temperature_at(epoch, switches, (2.0, 1.0)) for epoch in (milestone - 1, milestone)]
        noise = [noise_at(epoch, epochs, milestone / epochs) for epoch in (milestone - 1, milestone)]
        late += [milestone] * (around != [2.0, 1.0] or noise != [True, False])
    assert not late


@pytest.mark.parametrize("setting, changed", [("temperature", 5.0), ("differentiable_dilation", False)])
def test_what_is_asked_reaches_the_masks_gradient_and_no_decision(setting, changed):
    network, images, gradients, decided = network_of("cifar_resnet8"), images_of((2, 32, 32)), [], []
    for how in ({}, {setting: changed}):
        network.zero_grad()
        _, usage = network(images, budget=0.4, return_usage=True, **how)
        usage.loss_fraction.mean().backward()
        gradients.append(network.layer2[0].mask_units["b040"].fc.weight.grad.clone())
        decided.append(usage.masks)
    assert all(torch.equal(a, b) for a, b in zip(*decided))
    assert gradients[0].abs().sum() > 0 and not torch.allclose(*gradients)


def test_a_network_inside_of_others_is_found_asked_and_measured():
    holder, images = Holder().train(), images_of((2, 32, 32))
    objective = bdsa.Objective(holder, budgets=[0.7])
    assert [float(objective.budget_at(step)) for step in range(2)] == [0.7, 0.7]
    torch.manual_seed(0)
    with objective.asking(0.7, 1, 10) as used:
        logits = holder(images)
    usage = used.usage
    torch.manual_seed(0)
    again, expected = holder.body(images, **objective.asks(0.7, 1, 10))
    assert torch.equal(usage.macs, expected.macs) and torch.equal(again, logits)
    objective(F.cross_entropy(logits, LABELS), usage, 0.7, 1, 10)["total"].backward()
    assert all(b.mask_units["b070"].conv.weight.grad is not None for b in holder.body.adaptive_blocks())
    with objective.asking(0.7, 1, 10) as used, pytest.raises(bdsa.UserError, match="called 0 times"):
        used.usage  # noqa: B018
    with objective.asking(0.7, 1, 10) as used:
        holder(images), holder(images)
    with pytest.raises(bdsa.UserError, match="called 2 times"):
        used.usage  # noqa: B018


def test_extractors_that_call_stages_alone_are_measured_too():
    network, images = network_of("resnet18"), images_of((1, 32, 32))
    getter = IntermediateLayerGetter(network, {"layer4": "last"})
    with torch.inference_mode():
        for budget in (0.4, 1.0):
            expected = network(images, budget=budget, return_usage=True)[1]
            with measuring(network, budget) as used:
                getter(images)
            with pytest.raises(bdsa.UserError, match="used.size"):
                used.usage  # noqa: B018
            used.size = (32, 32)
            assert torch.equal(used.usage.macs, expected.macs)
            assert all(torch.equal(a, b) for a, b in zip(used.usage.masks, expected.masks, strict=True))


@pytest.mark.parametrize("given, said", [
    (dict(budgets=[0.5]), "0.5 was not trained"), (dict(network_weight=-1), "network_weight=-1 must be from 0"),
    (dict(temperatures=[]), "temperatures is empty"), (dict(switches=[0.5]), "one value fewer"),
    (dict(anneal=0), "anneal=0 must be above zero")])
def test_what_cannot_be_is_said(given, said):
    with pytest.raises(bdsa.UserError, match=said):
        bdsa.Objective(network_of("cifar_resnet8"), **given)
    with pytest.raises(bdsa.UserError, match="holds no adaptive network"):
        bdsa.Objective(nn.Linear(1, 1))


def test_usage_is_a_tree_of_tensors():
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    usage = network(images, budget=0.4, return_usage=True)[1]
    leaves, _ = tree_flatten(usage)
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves) == 2 * len(usage.masks) + 5
    halved = tree_map(lambda t: t[:1] if isinstance(t, torch.Tensor) else t, usage)
    assert isinstance(halved, bdsa.Usage) and halved.masks[0].shape[0] == 1


@pytest.mark.parametrize("kind", ["images alone", "labelled", "by name", "by hand"])
def test_a_calibrated_network_meets_its_budgets(kind):
    holder, images = Holder(), images_of((8, 32, 32))
    pairs = [{"labelled": (x, 0), "by name": {"pixel_values": x, "label": 0}}.get(kind, x) for x in images]
    call = (lambda batch: holder(batch)) if kind == "by hand" else None
    report = bdsa.calibrate(holder, DataLoader(pairs, 4), call=call)
    assert report.keys() == {"b040", "b070"}
    for budget in (0.4, 0.7):
        with torch.inference_mode():
            fraction = holder.body(images, budget=budget, return_usage=True)[1].conditional_fraction.mean().item()
        assert fraction == pytest.approx(budget, abs=0.01)


def test_a_batch_that_is_not_understood_is_said():
    with pytest.raises(bdsa.UserError, match="give call="):
        bdsa.calibrate(network_of("cifar_resnet8"), [["no images"]])
    with pytest.raises(bdsa.UserError, match="gives no batch"):
        bdsa.calibrate(network_of("cifar_resnet8"), [])
