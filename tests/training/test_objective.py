"""The public objective: a loop of one's own learns what bdsa-train learns, also where the network is deep inside."""
from __future__ import annotations

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
from bdsa.models.measuring import measuring
from bdsa.training.batch_losses import BatchLosses

LABELS = torch.tensor([1, 2])


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
