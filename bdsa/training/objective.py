"""The training objective of one batch at one budget: named losses and their weighted sum.

    total = w_b * (task_weight * task + network_weight * network + block_weight * block + price * F
                   + teacher.weight * kd)
"""
from __future__ import annotations

from collections.abc import Sequence

from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from bdsa.budgets import Budget
from bdsa.config.settings import BudgetsConfig, RecipeConfig, TeacherConfig
from bdsa.distributed import shard, with_global_means
from bdsa.method.control import steer
from bdsa.method.losses import block_bounds, block_budget_loss, distillation_loss, network_budget_loss
from bdsa.method.schedule import noise_at, target_at, temperature_at
from bdsa.training.teachers import Lesson, Teacher


class Objective:
    """Losses of an adaptive network.

    Args:
        budgets: weights of the budget terms, annealing of the block bounds, temperatures, noise.
        recipe: epochs, milestones and label smoothing.
        teacher: what `create_teacher` gave, with its temperature and weight in `teaching`.
    """

    def __init__(self, budgets: BudgetsConfig, recipe: RecipeConfig, teaching: TeacherConfig,
                 teacher: Teacher | None) -> None:
        self.budgets, self.recipe, self.teaching, self.teacher = budgets, recipe, teaching, teacher
        self.switches = [s * recipe.epochs for s in temperature_switches(budgets, recipe)]
        # Labels of mixed images come soft and smoothed already: smoothing them here would do it twice.
        self.task = SoftTargetCrossEntropy() if recipe.mixes else nn.CrossEntropyLoss(
            label_smoothing=recipe.label_smoothing)

    def temperature(self, epoch: int) -> float:
        """Temperature of the masks in an epoch (0 is the first)."""
        return temperature_at(epoch, self.switches, self.budgets.temperatures)

    def lesson(self, network: nn.Module, images: Tensor) -> Lesson:
        """What the budgets of one batch are taught. network, images: as below."""
        return Lesson(self.teacher, network, images, handed_on=self.teaching.students == "largest")

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, budget: float, epoch: int,
                 progress: float, weight: float, lesson: Lesson | None = None) -> dict[str, Tensor]:
        """The losses of one batch.

        Args:
            network: an adaptive network in training mode.
            images: [B, 3, H, W]; labels: int64 [B], or float [B, classes] where the recipe mixes images.
            budget: the budget that this batch trains.
            epoch: the epoch, for temperature and noise.
            progress: share of the whole training that is done, 0..1, for the block bounds.
            weight: w_b, the budget's awareness weight.
            lesson: what the batch's other budgets were taught; None: this budget is alone.

        Returns:
            "total" to be minimised, each term by name, and "conditional_fraction", all scalars.
        """
        settings, budget = self.budgets, Budget(budget)
        logits, usage = network(
            images, budget=float(budget), return_usage=True, temperature=self.temperature(epoch),
            noise=noise_at(epoch, self.recipe.epochs, settings.noise_until),
            differentiable_dilation=settings.differentiable_dilation,
            published_cost=settings.cost_model == "published", shard=shard())
        fractions, loss_fractions, loss_block_fractions = with_global_means(
            usage.conditional_fraction, usage.loss_fraction, usage.loss_block_fractions)
        losses = {"task": self.task(logits.float(), labels)}
        total = settings.task_weight * losses["task"]
        if not budget.is_dense:
            target = target_at(progress, budget, settings.warmup)
            lower, upper = block_bounds(target, progress, settings.anneal)
            losses["network"] = network_budget_loss(loss_fractions, target)
            losses["block"] = block_budget_loss(loss_block_fractions, lower, upper)
            total = total + settings.network_weight * losses["network"] + settings.block_weight * losses["block"]
            if settings.price:  # controlled thresholds hold F: what is left of this is which MACs are worth it
                total = total + settings.price * loss_fractions.mean()
        lesson = lesson or self.lesson(network, images)
        if lesson.teaches(budget):
            losses["kd"] = distillation_loss(logits, lesson(), self.teaching.temperature)
            total = total + self.teaching.weight * losses["kd"]
        lesson.hear(budget, logits)
        losses["total"] = weight * total
        losses["conditional_fraction"] = fractions.mean()
        return losses

    def steer(self, network: nn.Module, budget: float, fraction: Tensor, progress: float) -> None:
        """After a batch's backward pass: hold the budget by its thresholds, where `budgets.control_gain` says so."""
        budget = Budget(budget)
        if self.budgets.control_gain and not budget.is_dense:
            units = [block.mask_units[budget.name] for block in network.adaptive_blocks()]
            steer(units, fraction, target_at(progress, budget, self.budgets.warmup), self.budgets.control_gain)


def temperature_switches(budgets: BudgetsConfig, recipe: RecipeConfig) -> Sequence[float]:
    """Shares of the epochs where the temperature falls: as set, else the first milestones, else 30 % and 60 %."""
    if budgets.switches is not None:
        return budgets.switches
    count = len(budgets.temperatures) - 1
    if len(recipe.milestones) >= count:
        return [m / recipe.epochs for m in recipe.milestones[:count]]
    return [0.3 * (i + 1) for i in range(count)]
