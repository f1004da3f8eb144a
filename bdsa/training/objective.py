"""What holds a network to its budgets while it learns any task: a task's loss goes in, named losses come out.

    total = weight * (task_weight * task + network_weight * network + block_weight * block + price * F
                      + distillation_weight * kd)
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import Tensor, nn

from bdsa.budgets import Budget, Budgets
from bdsa.config.setting import Rule
from bdsa.config.settings import SAMPLES, BudgetsConfig, TeacherConfig
from bdsa.distributed import shard, with_global_means
from bdsa.errors import UserError, unknown
from bdsa.method.between import parts
from bdsa.method.control import steer
from bdsa.method.losses import (
    block_bounds,
    block_budget_loss,
    decoupled_distillation_loss,
    distillation_loss,
    network_budget_loss,
)
from bdsa.method.masks import MaskUnit
from bdsa.method.schedule import noise_at, target_at, temperature_at, usual_switches
from bdsa.models.measuring import Measured, measuring, network_in
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.usage import Usage
from bdsa.training.sampling import Sampling


class Objective:
    """The losses of an adaptive network in any training loop; bdsa-train has the same.

        objective = bdsa.Objective(model)
        for step, (images, labels) in enumerate(batches):
            budget = objective.budget_at(step)
            logits, usage = model(images, **objective.asks(budget, step, steps))
            losses = objective(F.cross_entropy(logits, labels), usage, budget, step, steps)
            losses["total"].backward()

    How far a training is, is told by two numbers, what is done and of how many: steps, epochs, anything.
    It works in several processes too: means of a batch are then those of all processes (`bdsa.distributed`).

    Args:
        model: an adaptive network, or a module that holds one: a detector, DistributedDataParallel, a compiled one.
        budgets: which of the network's budgets are trained; None: all of them.
        sample: "listed", or "continuous": any budget from the smallest to the largest of these below 1, and 1 if it is
            among them (docs/training.md); `bdsa.fill_in(model)` after the training.
        seed: of the budgets that are drawn then.
        task_weight, network_weight, block_weight: of the terms, docs/method.md section 6.
        price: adds price * F, the fraction of the conditional MACs.
        anneal: share of the training after which single blocks are free.
        warmup: share of the training in which the wanted fraction falls from 1 to the budget.
        temperatures: of the masks' gradient, in order.
        switches: shares of the training where the next temperature starts, one fewer; None: 0.3, 0.6, ...,
            closer where there are more than four temperatures.
        noise_until: share of the training with Gumbel noise.
        differentiable_dilation: whether the first layer's cost teaches the masks.
        published_cost: whether the terms see the MACs that the authors' code counts.
        control_gain: by what `steer` moves thresholds; 0: not at all.
        distillation_weight, distillation_temperature: of the term that a teacher's logits add.
        distillation_beta: in it, the weight of the classes beside the label (decoupled distillation); None: KL's.

    Raises:
        UserError: for a model without an adaptive network, a budget that it does not have, or a value that breaks a
            rule.
    """

    def __init__(self, model: nn.Module, budgets: Iterable[float] | None = None, *, sample: str = "listed",
                 seed: int = 0, task_weight: float = 1.0, network_weight: float = 10.0, block_weight: float = 10.0,
                 price: float = 0.0, anneal: float = 0.33, warmup: float = 0.0,
                 temperatures: Sequence[float] = (5.0, 2.5, 1.0), switches: Sequence[float] | None = None,
                 noise_until: float = 0.8, differentiable_dilation: bool = True, published_cost: bool = False,
                 control_gain: float = 0.0, distillation_weight: float = 0.01,
                 distillation_temperature: float = 20.0, distillation_beta: float | None = None) -> None:
        self.network: AdaptiveNetwork = network_in(model)
        own = self.network.budgets
        self.budgets = own if budgets is None else Budgets(float(own.require(b)) for b in Budgets(budgets))
        if sample not in SAMPLES:
            raise unknown("sample", sample, SAMPLES)
        if sample == "continuous" and self.budgets.adaptive != own.adaptive:
            raise UserError(f"sample=continuous trains the range of all of the network's budgets below 1, of "
                            f"{own.plain()}: leave out budgets={self.budgets.plain()}")
        self.sampling = Sampling(self.budgets, sample == "continuous", seed=seed)
        self.task_weight, self.network_weight, self.block_weight = task_weight, network_weight, block_weight
        self.price, self.anneal, self.warmup, self.noise_until = price, anneal, warmup, noise_until
        self.temperatures = list(temperatures)
        self.switches = usual_switches(len(self.temperatures)) if switches is None else list(switches)
        self.differentiable_dilation, self.published_cost = differentiable_dilation, published_cost
        self.control_gain = control_gain
        self.distillation_weight, self.distillation_temperature = distillation_weight, distillation_temperature
        self.distillation_beta = distillation_beta
        self._check()

    def _check(self) -> None:
        """Hold the numbers against the rules of the settings of the same names."""
        rules = {f.name: f.metadata["rule"] for f in dataclasses.fields(BudgetsConfig)}
        teaching = {f.name: f.metadata["rule"] for f in dataclasses.fields(TeacherConfig)}
        rules |= {f"distillation_{name}": teaching[name] for name in ("weight", "temperature", "beta")}
        for name, rule in rules.items():
            value = getattr(self, name, None)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(rule, Rule) and isinstance(item, (int, float)) and (broken := rule.broken_by(item)):
                    raise UserError(f"{name}={value}{f': {item}' if isinstance(value, list) else ''} {broken}")
        if not self.temperatures:
            raise UserError("temperatures is empty: give at least one, such as [1]")
        if len(self.switches) != len(self.temperatures) - 1:
            raise UserError(f"switches={self.switches} must have one value fewer than temperatures={self.temperatures}")

    def budget_at(self, step: int) -> Budget:
        """The budget that step `step` trains: one by turns, or one that is drawn."""
        return self.sampling.at(step)[0]

    def temperature(self, done: float, of: float = 1.0) -> float:
        """Temperature of the masks' gradient when so much of the training is done."""
        return temperature_at(done, [s * of for s in self.switches], self.temperatures)

    def asks(self, budget: float, done: float, of: float = 1.0) -> dict[str, Any]:
        """The arguments of the network's forward pass, `model(images, **objective.asks(...))`.

        Args:
            budget: the budget that the batch trains.
            done, of: how far the training is.
        """
        device = next(self.network.parameters()).device
        return {"budget": self.sampling.asked(Budget(budget), device), "return_usage": True,
                "temperature": self.temperature(done, of),
                "noise": noise_at(done, of, self.noise_until), "published_cost": self.published_cost,
                "differentiable_dilation": self.differentiable_dilation, "shard": shard()}

    def asking(self, budget: float, done: float, of: float = 1.0) -> AbstractContextManager[Measured]:
        """The same around code that calls the network without a budget, such as a detector's forward pass.

            with objective.asking(budget, step, steps) as used:
                task = sum(detector(images, targets).values())
            losses = objective(task, used.usage, budget, step, steps)
        """
        how = self.asks(budget, done, of)
        return measuring(self.network, **{k: v for k, v in how.items() if k != "return_usage"})

    def __call__(self, task: Tensor, usage: Usage, budget: float, done: float, of: float = 1.0, *, weight: float = 1.0,
                 student: Tensor | None = None, teacher: Tensor | None = None,
                 labels: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of one batch.

        Args:
            task: scalar, the task's own loss.
            usage: what the forward pass at this budget used.
            budget: the budget that this batch trains.
            done, of: how far the training is.
            weight: of the whole, such as the budget's awareness weight.
            student, teacher: logits [B, classes] of the network and of whoever teaches it, or neither.
            labels: int64 [B], for decoupled distillation.

        Raises:
            UserError: for decoupled distillation without labels, or with those of mixed images.

        Returns:
            "total" to be minimised, each term by name, and "conditional_fraction", all scalars.
        """
        budget, progress = Budget(budget), done / of
        fractions, loss_fractions, loss_block_fractions = with_global_means(
            usage.conditional_fraction, usage.loss_fraction, usage.loss_block_fractions)
        losses = {"task": task}
        total = self.task_weight * task
        if not budget.is_dense:
            target = target_at(progress, budget, self.warmup)
            lower, upper = block_bounds(target, progress, self.anneal)
            losses["network"] = network_budget_loss(loss_fractions, target)
            losses["block"] = block_budget_loss(loss_block_fractions, lower, upper)
            total = total + self.network_weight * losses["network"] + self.block_weight * losses["block"]
            if self.price:  # controlled thresholds hold F: what is left of this is which MACs are worth it
                total = total + self.price * loss_fractions.mean()
        if student is not None and teacher is not None:
            losses["kd"] = self._taught(student, teacher, labels)
            total = total + self.distillation_weight * losses["kd"]
        losses["total"] = weight * total
        losses["conditional_fraction"] = fractions.mean()
        return losses

    def _taught(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        if self.distillation_beta is None:
            return distillation_loss(student, teacher, self.distillation_temperature)
        if labels is None or labels.dim() != 1 or labels.is_floating_point():
            given = "none are given" if labels is None else f"these are {labels.dtype} {list(labels.shape)}"
            raise UserError(f"distillation_beta={self.distillation_beta} needs labels, int64 [B], one an image: "
                            f"{given}")
        return decoupled_distillation_loss(student, teacher, labels, self.distillation_temperature,
                                           self.distillation_beta)

    def steer(self, budget: float, fraction: Tensor, done: float, of: float = 1.0) -> None:
        """After a batch's backward pass: hold the budget by its thresholds, where `control_gain` says so.

        Args:
            budget: the budget that the batch trained.
            fraction: its "conditional_fraction".
            done, of: how far the training is.
        """
        budget = Budget(budget)
        if self.control_gain and not budget.is_dense:
            ends = self.sampling.ends(budget)
            moved = (1.0,) if len(ends) == 1 else parts(ends[1][1])
            for (end, _), part in zip(ends, moved):
                units = (cast(MaskUnit, block.mask_units[end.name]) for block in self.network.adaptive_blocks())
                steer(units, fraction, target_at(done / of, budget, self.warmup), self.control_gain * part)
