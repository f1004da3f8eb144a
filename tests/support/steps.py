"""A training step on a tiny network and random images, without files."""
from __future__ import annotations

import torch
from torch import Tensor

from bdsa.config.settings import (
    BudgetsConfig,
    DataConfig,
    ModelConfig,
    RecipeConfig,
    TeacherConfig,
    TrainConfig,
    TrainerConfig,
)
from bdsa.training.assembly import assemble
from bdsa.training.step import TrainStep

CPU = torch.device("cpu")


def make_step(budgets=(0.3, 0.7, 1.0), *, trainer: dict | None = None, teacher: dict | None = None,
              noise_until: float = 0.8, control_gain: float = 0.0, budgets_settings: dict | None = None,
              images: int = 48, device: torch.device = CPU, model: dict | None = None,
              **recipe) -> TrainStep:
    """The step of a cifar_resnet8 with micro-batches of 4, for an epoch of `images` images."""
    config = TrainConfig(
        model=ModelConfig(**{"name": "cifar_resnet8", **(model or {})}), teacher=TeacherConfig(**teacher or {}),
        budgets=BudgetsConfig(**{"targets": list(budgets), "noise_until": noise_until, "control_gain": control_gain,
                                 **(budgets_settings or {})}),
        trainer=TrainerConfig(**trainer or {}),
        data=DataConfig(image_size=32, train_images=images, val_images=8, test_images=8),
        recipe=RecipeConfig(**{"epochs": 4, "batch_size": 4, "warmup_epochs": 0, **recipe}))
    config.check()
    step = TrainStep(config, assemble(config, device), device)
    step.network.dense_macs((32, 32))  # counted once, by a forward pass that hooks of tests should not see
    return step


def batch(seed: int, size: int = 4) -> tuple[Tensor, Tensor]:
    """Images [size, 3, 32, 32] and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 32, 32, generator=generator), torch.randint(10, (size,), generator=generator)


def take(step: TrainStep, first: int, count: int) -> dict[str, Tensor]:
    """Steps number `first` and on, each with images of its own; the last one's losses."""
    losses = {}
    for number in range(first, first + count):
        if number % step.per_epoch == 0:
            step.start_epoch(number // step.per_epoch)
        losses = step(number, *batch(number))
    return losses


def state(network: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the network's tensors."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
