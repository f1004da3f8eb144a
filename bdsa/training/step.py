"""The single training step, alone: a benchmark runs exactly what the training runs.

Nothing here waits for the device: no value is read back, losses stay tensors where they are. (One
exception is torch's: with float16, its gradient scaler reads a flag before each update.)
"""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor

from bdsa.config.settings import TrainConfig
from bdsa.data.seeds import mixed_seed
from bdsa.distributed import exchanged, shard
from bdsa.machine import keep_freed_memory
from bdsa.training.assembly import Assembly, layout
from bdsa.training.averaging import GradientAveraging
from bdsa.training.batch_losses import BatchLosses
from bdsa.training.compilation import compiled
from bdsa.training.optimization import backbone_parameters, create_optimizer, create_schedule
from bdsa.training.sampling import Sampling

PRECISIONS = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainStep:
    """One micro-batch and, where it ends an accumulation, the update of the weights.

    Everything follows from the number of the step, counted from the start of the whole training: its
    epoch, its budgets, the rates. In turns (`budgets.schedule=round_robin`) a step trains one budget, and every
    budget gets the same number of images. In a sandwich it trains the largest, the smallest and some of those
    between on the same images, one backward pass each, and their gradients add up. `bdsa.training.sampling` says which.

    Args:
        config: the training's settings.
        assembly: network, budgets, teacher and the batches of an epoch. Those that do not fill an
            accumulation are not used, so that no gradient crosses an epoch's end.
        device: where the network is.

    Attributes:
        network: the bare network, which owns the weights: what is saved and evaluated.
        ema: the averaged network, or None. Batch-norm statistics are averaged like the weights that
            they belong to; counters are copied.
        forward: what is called: the network, or what wraps it.
        per_epoch, total: micro-batches of an epoch, and of the training.
        weights: the awareness weight of each budget, set anew after every epoch.
    """

    def __init__(self, config: TrainConfig, assembly: Assembly, device: torch.device) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        recipe = self.recipe = config.recipe
        self.network, self.budgets, self.device = assembly.network, assembly.budgets, device
        self.seed = config.trainer.seed
        self.precision = PRECISIONS[config.trainer.amp]
        self.layout = layout(config)
        updates = assembly.batches // recipe.accumulation
        self.per_epoch = updates * recipe.accumulation
        self.total = recipe.epochs * self.per_epoch
        self.sampling = Sampling(self.budgets, config.budgets.sample == "continuous", config.budgets.schedule,
                                 config.budgets.between, self.seed)
        self.weights = [1.0] * len(self.budgets)
        self.losses = BatchLosses(self.network, config.budgets, recipe, config.teacher, assembly.teacher)
        self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing,
                           num_classes=assembly.spec.num_classes) if recipe.mixes else None
        # In this order: what owns the weights first, then what wraps the network that is called.
        self.backbone = backbone_parameters(self.network)
        self.optimizer = create_optimizer(self.network, recipe)
        self.schedule = create_schedule(self.optimizer, recipe, updates)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.ema = None if recipe.ema_decay is None else ModelEmaV3(self.network, decay=recipe.ema_decay)
        self.averaging = GradientAveraging(self.network.parameters())
        self.forward = self.network
        if config.trainer.compile:
            phases = len(config.budgets.temperatures) + 1  # the noise ends in one of them
            self.forward = compiled(self.network, assembly.splits.image_size, phases)

    @property
    def learning_rate(self) -> float:
        """The schedule's current rate, before the groups' scales."""
        group = self.optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"]

    def start_epoch(self, epoch: int) -> None:
        """Set the network to training, and every random number of the epoch by (seed, epoch)."""
        torch.manual_seed(mixed_seed("epoch", self.seed, epoch))
        np.random.seed(mixed_seed("mixup", self.seed, epoch) % 2 ** 32)  # timm's Mixup draws from numpy
        self.network.train()

    def __call__(self, step: int, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Train on one micro-batch.

        Args:
            step: its number, from 0 in the first epoch on.
            images: [B, 3, H, W]; labels: int64 [B]; on any device.

        Returns:
            The losses by name, means over the step's budgets, and "fraction/<budget>", scalars without gradient, on
            the device.
        """
        epoch, progress = step // self.per_epoch, step / self.total
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=self.layout)
        labels = labels.to(self.device, non_blocking=True)
        if self.mixup is not None:
            images, labels = self.mixed(images, labels)
        said: dict[str, list[Tensor]] = {}
        lesson = self.losses.lesson(self.forward, images)
        trained, last = self.sampling.at(step), (step + 1) % self.recipe.accumulation == 0
        for number, budget in enumerate(trained, 1):
            with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                losses = self.losses(self.forward, images, labels, budget, epoch, progress,
                                     self.sampling.weight(budget, self.weights), lesson)
            if last and number == len(trained):
                self.averaging.begin(self.sampling.kind(budget))
            self.scaler.scale(losses["total"] / self.recipe.accumulation).backward()
            self.losses.steer(budget, losses["conditional_fraction"], progress)
            name, fraction = self.sampling.told(budget, losses.pop("conditional_fraction"))
            losses[f"fraction/{name}"] = fraction
            for name, value in losses.items():
                said.setdefault(name, []).append(value.detach())
        if last:
            self.update((step + 1) // self.recipe.accumulation, epoch < self.recipe.freeze_backbone_epochs)
        return {name: torch.stack(values).mean() if len(values) > 1 else values[0] for name, values in said.items()}

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images and labels of a batch as one process does: the first with the last, the second with the one
        before. The last ones of all processes are those of another rank; what is drawn is the same in all of them.

        Args:
            images: [B, C, H, W], unchanged; labels: int64 [B].

        Returns:
            Images, and smoothed labels, float [B, classes].
        """
        rank, world = shard()
        both = [images.clone(), labels]
        if world > 1:
            both = [torch.cat([own, exchanged(own, world - 1 - rank)]) for own in (images, labels)]
        mixed_images, mixed_labels = self.mixup(*both)
        count = len(images)
        return mixed_images[:count].contiguous(memory_format=self.layout), mixed_labels[:count]

    def update(self, updates: int, frozen: bool = False) -> None:
        """Move the weights by what the accumulated gradients say.

        Args:
            updates: which update of the training this is; 1 is the first.
            frozen: whether only the mask units move. The others' gradients are dropped, so that an
                optimiser passes them by: no weight decay, no momentum. Their `requires_grad` stays, which
                compiled graphs and data-parallel wrappers were built for. Batch-norm statistics go on
                being measured: a budget's belong to its masks, and those change.
        """
        self.averaging.finish()  # before unscaling: all ranks find the same overflows
        self.scaler.unscale_(self.optimizer)
        if frozen:
            for parameter in self.backbone:
                parameter.grad = None
        if self.recipe.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.schedule is not None:
            self.schedule.step_update(updates)
        if self.ema is not None:
            self.ema.update(self.network)

    def networks(self) -> dict[str, torch.nn.Module]:
        """What is evaluated and kept: the network under "raw" and, where there is one, the average under "ema"."""
        return {"raw": self.network} | ({} if self.ema is None else {"ema": self.ema.module})

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beside the network's weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "ema": None if self.ema is None else self.ema.module.state_dict(), "budget_weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.weights = state["budget_weights"]
