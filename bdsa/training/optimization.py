"""Optimiser and learning-rate schedule, from timm, with groups of their own for the mask units."""
from __future__ import annotations

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from bdsa.config.settings import RecipeConfig
from bdsa.errors import UserError, unknown
from bdsa.method.masks import MaskUnit


def parameter_groups(network: nn.Module, recipe: RecipeConfig) -> list[dict]:
    """Backbone and mask units apart, and of each the norms and biases apart, which are not decayed by default."""
    mask_units = {id(p) for p in mask_parameters(network)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in mask_units, parameter.ndim <= 1), []).append(parameter)
    made = []
    for (is_mask, is_plain), parameters in sorted(groups.items()):
        decay = recipe.mask_weight_decay if is_mask else recipe.weight_decay
        made.append({"params": parameters, "weight_decay": 0.0 if is_plain and not recipe.decay_norms else decay,
                     "lr_scale": recipe.mask_lr_scale if is_mask else recipe.backbone_lr_scale})
    return made


def mask_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of all mask units; the others are the backbone's."""
    return [p for m in network.modules() if isinstance(m, MaskUnit) for p in m.parameters()]


def backbone_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Everything but the mask units, norms per budget included: what `freeze_backbone_epochs` holds still."""
    mask_units = {id(p) for p in mask_parameters(network)}
    return [p for p in network.parameters() if id(p) not in mask_units]


def check_optimizer(recipe: RecipeConfig) -> None:
    """Raise UserError for an optimiser that timm does not have, with the nearest spelling, or that cannot be made."""
    if recipe.optimizer not in list_optimizers():
        raise unknown("recipe.optimizer", recipe.optimizer, list_optimizers())
    if get_optimizer_info(recipe.optimizer).second_order:
        raise UserError(f"recipe.optimizer={recipe.optimizer} needs second derivatives, which a step does not keep: "
                        f"choose another, such as adamw or sgd")
    trial = nn.Module()
    trial.weight = nn.Parameter(torch.zeros(2, 2))  # drawing it would change what is drawn after it
    try:
        create_optimizer(trial, recipe)
    except Exception as error:  # a package or a GPU that it needs, or a value that it refuses
        raise UserError(f"recipe.optimizer={recipe.optimizer} cannot be made with recipe.momentum={recipe.momentum:g} "
                        f"and recipe.lr={recipe.lr:g} on this machine: {str(error) or type(error).__name__}") from error


def create_optimizer(network: nn.Module, recipe: RecipeConfig) -> Optimizer:
    """The recipe's optimiser over the groups of `parameter_groups`."""
    return create_optimizer_v2(network, opt=recipe.optimizer, lr=recipe.lr, momentum=recipe.momentum,
                               weight_decay=0.0, param_group_fn=lambda model: parameter_groups(model, recipe))


def create_schedule(optimizer: Optimizer, recipe: RecipeConfig, updates_per_epoch: int) -> Scheduler | None:
    """The recipe's schedule: `step_update(n)` sets the rates for update n, whatever came before."""
    if recipe.schedule == "constant":
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * group["lr_scale"]
        return None
    # timm adds a prefixed warm-up to num_epochs: without the difference the cosine would be cut off before
    # it reaches min_lr. At least one epoch, so that a trial that is all warm-up has a schedule too.
    cosine = recipe.schedule == "cosine"
    epochs = max(recipe.epochs - recipe.warmup_epochs, 1) if cosine else recipe.epochs
    schedule, _ = create_scheduler_v2(
        optimizer, sched=recipe.schedule, num_epochs=epochs, step_on_epochs=False,
        updates_per_epoch=updates_per_epoch, warmup_epochs=recipe.warmup_epochs,
        warmup_prefix=cosine, warmup_lr=recipe.lr / 100, min_lr=recipe.min_lr,
        decay_milestones=recipe.milestones, decay_rate=recipe.decay_rate)
    schedule.step_update(0)
    return schedule
