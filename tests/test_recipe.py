"""What a recipe does to the weights: schedule, parameter groups, freezing, accumulation, averaging."""
from __future__ import annotations

import pytest
import torch

import bdsa
from bdsa.config import RecipeConfig
from bdsa.optimization import create_optimizer, create_schedule


def tiny(budgets=(0.3, 0.7), **options):
    torch.manual_seed(0)
    return bdsa.create_model("cifar_resnet8", list(budgets), num_classes=10, **options)


def test_cosine_starts_after_the_warm_up_and_ends_at_min_lr():
    recipe = RecipeConfig(epochs=10, lr=1.0, warmup_epochs=2, min_lr=0.01)
    optimizer = create_optimizer(tiny(), recipe)
    schedule = create_schedule(optimizer, recipe, updates_per_epoch=5)
    rates = []
    for update in range(51):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.01) and max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.505) and rates[50] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
