"""The single training step, alone: a benchmark runs exactly what the training runs.

Nothing here waits for the device: no value is read back, losses stay tensors where they are.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bdsa.assembly import Parts
from bdsa.config import TrainConfig
from bdsa.data.loaders import mixed_seed
from bdsa.objective import Objective
from bdsa.optimization import create_optimizer, create_schedule


class TrainStep:
    """One micro-batch of one budget and, where it ends an accumulation, the update of the weights.

    Everything follows from the number of the step, counted from the start of the whole training: its
    epoch, its budget (round robin, so that every budget gets the same number of images), the rates.

    Args:
        config: the training's settings.
        parts: network, budgets, teacher and the batches of an epoch. Those that do not fill an
            accumulation are not used, so that no gradient crosses an epoch's end.
        device: where the network is.

    Attributes:
        network: the bare network, which owns the weights: what is saved and evaluated.
        forward: what is called: the network, or what wraps it.
        per_epoch: micro-batches of an epoch.
        weights: the awareness weight of each budget, set anew after every epoch.
    """

    def __init__(self, config: TrainConfig, parts: Parts, device: torch.device) -> None:
        self.recipe, self.seed, self.device = config.recipe, config.trainer.seed, device
        self.network, self.budgets = parts.network, parts.budgets
        self.layout = torch.channels_last if config.trainer.channels_last else torch.contiguous_format
        updates = parts.batches // self.recipe.accumulation
        self.per_epoch = updates * self.recipe.accumulation
        self.total = self.recipe.epochs * self.per_epoch
        self.weights = [1.0] * len(self.budgets)
        self.objective = Objective(config.budgets, self.recipe, config.teacher, parts.teacher)
        # In this order: what owns the weights first, then what wraps the network that is called.
        self.optimizer = create_optimizer(self.network, self.recipe)
        self.schedule = create_schedule(self.optimizer, self.recipe, updates)
        self.forward = self.network

    def start_epoch(self, epoch: int) -> None:
        """Set the network to training, and every random number of the epoch by (seed, epoch)."""
        torch.manual_seed(mixed_seed("epoch", self.seed, epoch))
        self.network.train()

    def __call__(self, step: int, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Train on one micro-batch.

        Args:
            step: its number, from 0 in the first epoch on.
            images: [B, 3, H, W]; labels: int64 [B]; on any device.

        Returns:
            The losses by name and "fraction/<budget>", scalars without gradient, on the device.
        """
        epoch, turn = step // self.per_epoch, step % len(self.budgets)
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=self.layout)
        labels = labels.to(self.device, non_blocking=True)
        losses = self.objective(self.forward, images, labels, self.budgets.at_step(step), epoch, step / self.total,
                                self.weights[turn])
        (losses["total"] / self.recipe.accumulation).backward()
        if (step + 1) % self.recipe.accumulation == 0:
            self.update((step + 1) // self.recipe.accumulation)
        losses[f"fraction/{self.budgets.names[turn]}"] = losses.pop("conditional_fraction")
        return {name: value.detach() for name, value in losses.items()}

    def update(self, updates: int) -> None:
        """Move the weights by what the accumulated gradients say: the `updates`-th time (1 is the first)."""
        if self.recipe.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.schedule is not None:
            self.schedule.step_update(updates)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beside the network's weights."""
        return {"optimizer": self.optimizer.state_dict(), "budget_weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.weights = state["budget_weights"]
