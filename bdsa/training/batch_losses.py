"""The losses of a batch of labelled images in bdsa-train: the task's, a teacher's, and what holds the budget."""
from __future__ import annotations

from collections.abc import Sequence

from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from bdsa.budgets import Budget
from bdsa.config.settings import BudgetsConfig, RecipeConfig, TeacherConfig
from bdsa.method.schedule import usual_switches
from bdsa.training.objective import Objective
from bdsa.training.teachers import Lesson, Teacher


class BatchLosses:
    """Losses of a classifier.

    Args:
        network: an adaptive network.
        budgets: weights of the budget terms, annealing of the block bounds, temperatures, noise.
        recipe: epochs, milestones and label smoothing.
        teaching: how a teacher is heard: its temperature and weights.
        teacher: what `create_teacher` gave.
    """

    def __init__(self, network: nn.Module, budgets: BudgetsConfig, recipe: RecipeConfig, teaching: TeacherConfig,
                 teacher: Teacher | None) -> None:
        self.epochs, self.teacher = recipe.epochs, teacher
        self.handed_on = teaching.students == "largest"
        self.objective = Objective(
            network, sample=budgets.sample, task_weight=budgets.task_weight, network_weight=budgets.network_weight,
            block_weight=budgets.block_weight, price=budgets.price, anneal=budgets.anneal, warmup=budgets.warmup,
            temperatures=budgets.temperatures, switches=temperature_switches(budgets, recipe),
            noise_until=budgets.noise_until, differentiable_dilation=budgets.differentiable_dilation,
            published_cost=budgets.cost_model == "published", control_gain=budgets.control_gain,
            distillation_weight=teaching.weight, distillation_temperature=teaching.temperature,
            distillation_beta=teaching.beta)
        # Labels of mixed images come soft and smoothed already: smoothing them here would do it twice.
        self.task = SoftTargetCrossEntropy() if recipe.mixes else nn.CrossEntropyLoss(
            label_smoothing=recipe.label_smoothing)

    def temperature(self, epoch: int) -> float:
        """Temperature of the masks in an epoch (0 is the first)."""
        return self.objective.temperature(epoch, self.epochs)

    def lesson(self, network: nn.Module, images: Tensor) -> Lesson:
        """What the budgets of one batch are taught. network, images: as below."""
        return Lesson(self.teacher, network, images, self.handed_on)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, budget: float, epoch: int,
                 progress: float, weight: float, lesson: Lesson | None = None) -> dict[str, Tensor]:
        """The losses of one batch.

        Args:
            network: what is called: the network in training mode, or what wraps it.
            images: [B, 3, H, W]; labels: int64 [B], or float [B, classes] where the recipe mixes images.
            budget: the budget that this batch trains.
            epoch: the epoch, for temperature and noise.
            progress: share of the whole training that is done, 0..1, for the block bounds.
            weight: w_b, the budget's awareness weight.
            lesson: what the batch's other budgets were taught; None: this budget is alone.

        Returns:
            As `Objective`.
        """
        budget = Budget(budget)
        logits, usage = network(images, **self.objective.asks(budget, epoch, self.epochs))
        lesson = lesson or self.lesson(network, images)
        taught = lesson() if lesson.teaches(budget) else None
        losses = self.objective(self.task(logits.float(), labels), usage, budget, progress, weight=weight,
                                student=logits, teacher=taught, labels=labels)
        lesson.hear(budget, logits)
        return losses

    def steer(self, budget: float, fraction: Tensor, progress: float) -> None:
        """After a batch's backward pass: hold the budget by its thresholds; see `Objective.steer`."""
        self.objective.steer(budget, fraction, progress)


def temperature_switches(budgets: BudgetsConfig, recipe: RecipeConfig) -> Sequence[float]:
    """Shares of the epochs where the temperature falls: as set, else where the rate does, else `usual_switches`."""
    if budgets.switches is not None:
        return budgets.switches
    count = len(budgets.temperatures) - 1
    if recipe.schedule == "multistep" and len(recipe.milestones) >= count:
        return [min(1.0, m / recipe.epochs) for m in recipe.milestones[:count]]  # 1 is never reached
    return usual_switches(len(budgets.temperatures))
