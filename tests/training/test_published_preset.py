"""What the authors' code does otherwise, as a preset: their MAC count in the budget losses, never in a report."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from command_line import TINY, run
from network_cases import adaptive, images_of, perturb
from omegaconf import OmegaConf
from torch import nn

from bdsa.commands.entry_points import train as train_main
from bdsa.config.settings import BudgetsConfig, RecipeConfig, TeacherConfig
from bdsa.method.macs import macs_per_position
from bdsa.models.usage import Request
from bdsa.training.batch_losses import BatchLosses


def test_a_grouped_convolution_is_divided_by_its_groups_twice():
    depthwise, grouped, plain = nn.Conv2d(8, 8, 7, groups=8), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(8, 12, 3)
    assert [macs_per_position(c) for c in (depthwise, grouped, plain)] == [49 * 8, 9 * 2 * 12, 9 * 8 * 12]
    assert [macs_per_position(c, groups_twice=True) for c in (depthwise, grouped, plain)] == [49, 9 * 2 * 3, 9 * 8 * 12]


@pytest.mark.parametrize("name, layer, size", [
    ("resnet50", "layer2.0", (7, 6)), ("resnet50", "layer1.1", (6, 6)), ("resnet18", "layer2.0", (7, 6)),
    ("resnext50_32x4d", "layer2.0", (8, 8)), ("convnext_atto", "stages.0.blocks.0", (6, 5))])
@torch.no_grad()
def test_the_published_count_of_a_block_by_hand(name, layer, size):
    block = adaptive(name).get_submodule(layer)
    unit = block.mask_units["b030"]
    x = torch.randn(2, unit.conv.in_channels, *size)
    unit.conv.bias -= unit(x).quantile(0.7)
    _, usage = block.run(x, Request("b030", published_cost=True))
    executed = block.run(x, Request("b030"))[1]
    assert torch.equal(usage.cost, executed.cost) and usage.total == executed.total and executed.loss_cost is None

    mask = usage.mask.double()
    dilated = F.max_pool2d(mask, 3, 1, 1).sum(dim=(1, 2, 3))  # at output resolution, whatever the stride
    positions = mask[0].numel()
    cost, total = torch.zeros(2).double(), 0
    for key, conv in block.named_modules():
        if not isinstance(conv, (nn.Conv2d, nn.Linear)) or key.startswith(("mask_units", "downsample")):
            continue
        groups = getattr(conv, "groups", 1)
        macs = conv.weight.numel() // groups  # the weight has been divided by the groups once
        cost += (dilated if key == "conv1" else mask.sum(dim=(1, 2, 3))) * macs
        total += positions * macs
    assert torch.equal(usage.loss_cost[0], cost) and usage.loss_cost[1] == total
    missed = usage.total - total
    if (name, layer) == ("resnet50", "layer2.0"):
        assert missed == 256 * 128 * (7 * 6 - 4 * 3) and bool((usage.cost > cost).all())
    elif name == "convnext_atto":
        channels = block.conv_dw.in_channels
        assert missed == 49 * (channels - 1) * positions
    elif name != "resnext50_32x4d":
        assert missed == 0 and torch.equal(usage.cost, cost)


@pytest.mark.parametrize("name", ["resnet50", "convnext_atto"])
@torch.no_grad()
def test_reports_stay_true(name):
    x = images_of((64, 64))
    network = perturb(adaptive(name), x)
    right, wrong = (network(x, budget=0.3, return_usage=True, published_cost=p)[1] for p in (False, True))
    for part in ("macs", "conditional_fraction", "block_fractions"):
        assert torch.equal(getattr(right, part), getattr(wrong, part)), part
    assert torch.equal(right.loss_fraction, right.conditional_fraction)
    assert torch.equal(right.loss_block_fractions, right.block_fractions)
    assert not torch.allclose(wrong.loss_fraction, wrong.conditional_fraction, atol=1e-6)
    dense = network(x, return_usage=True, published_cost=True)[1]
    assert dense.loss_fraction.tolist() == [1, 1]


def test_the_budget_losses_see_the_count_that_the_setting_names():
    x, labels = images_of((64, 64)), torch.tensor([1, 2])
    network = perturb(adaptive("resnet50"), x)  # in eval mode: no statistics move between the calls
    settings = {model: BudgetsConfig(cost_model=model, noise_until=0.0) for model in ("executed", "published")}
    losses = {model: BatchLosses(network, budgets, RecipeConfig(), TeacherConfig(), None)
              (network, x, labels, 0.3, 0, 0.1, 1.0) for model, budgets in settings.items()}
    with torch.no_grad():
        usage = network(x, budget=0.3, return_usage=True, published_cost=True)[1]
    seen = {model: losses[model]["network"].item() for model in losses}
    assert seen["executed"] == pytest.approx((usage.conditional_fraction.mean().item() - 0.3) ** 2)
    assert seen["published"] == pytest.approx((usage.loss_fraction.mean().item() - 0.3) ** 2)
    assert losses["published"]["block"].item() != losses["executed"]["block"].item()
    assert torch.equal(losses["published"]["conditional_fraction"], losses["executed"]["conditional_fraction"])
    losses["published"]["network"].backward()
    assert all(float(b.mask_units["b030"].conv.bias.grad) != 0 for b in network.adaptive_blocks())


def test_the_preset_sets_every_published_behaviour_for_any_model():
    def settings(*arguments: str):
        outcome = run(train_main, [*arguments, "--cfg", "job"])
        assert outcome.code == 0, outcome.err
        config = OmegaConf.create(outcome.out)
        return (config.budgets.cost_model, config.budgets.differentiable_dilation, config.model.norm_affine,
                config.data.held_out)

    right, published = ("executed", True, "separate", None), ("published", False, "shared", None)
    assert settings() == right
    assert settings("reference=published", "model=convnext_tiny", "recipe=resnet_imagenet") == published
    assert settings("reference=published", "experiment=cifar10_resnet20") == published
    assert settings("reference=published", "model.norm_affine=separate", "data.held_out=0.1") == (
        "published", False, "separate", 0.1)


@pytest.mark.slow
def test_the_preset_trains(tmp_path):
    outcome = run(train_main, [*TINY, f"out={tmp_path}", "name=a", "recipe.epochs=1", "reference=published",
                               "budgets.targets=[0.3,0.7]", "trainer.pictures=0"])
    assert outcome.code == 0, outcome.err
    assert OmegaConf.load(tmp_path / "a/config.yaml").budgets.cost_model == "published"


@pytest.mark.parametrize("argument, expected", [("reference=publishd", "did you mean 'published'"),
                                                ("budgets.cost_model=execute", "did you mean 'executed'")])
def test_a_misspelled_choice_is_named(tmp_path, argument, expected):
    outcome = run(train_main, [argument, f"out={tmp_path}"])
    assert outcome.code == 1 and expected in outcome.err
