"""Budgets between those that a network was trained for, as budgets of its own: what continuous training ends with.

Between two of its budgets, a network that was trained continuously is what lies between what these own
(`bdsa.method.between`). Filled in, that becomes mask units and norms like any other budget's, and nothing else needs to
know of it.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from bdsa.budgets import Budget, Budgets
from bdsa.errors import UserError
from bdsa.method.between import mixed
from bdsa.models.network import AdaptiveNetwork

GAP = 0.05  # between two budgets afterwards, at most


def fill_in(network: AdaptiveNetwork, gap: float = GAP) -> Budgets:
    """Give a network that was trained continuously budgets of its own between those that it has, in place.

    What the trained ones own stays as it is. Calibrate afterwards: thresholds, and then curves.

    Args:
        network: trained with `budgets.sample=continuous`, or in a loop of one's own with `Objective(sample=...)`.
        gap: between two budgets afterwards, at most; trained neighbours are parted equally.

    Returns:
        The budgets that it has now.
    """
    budgets = with_between(network.budgets, gap)
    hold(network, budgets)
    return budgets


def with_between(budgets: Budgets, gap: float = GAP) -> Budgets:
    """Budgets and others between those below 1, in equal steps of at most `gap`."""
    found = set(budgets)
    for low, high in pairwise(budgets.adaptive):
        steps = math.ceil((high - low) / gap - 1e-6)
        found |= {Budget(low + (high - low) * step / steps) for step in range(1, steps)}
    return Budgets(found)


def hold(network: AdaptiveNetwork, budgets: Budgets) -> None:
    """Leave a network, in place, with these budgets; one that it lacks becomes what lies between its neighbours.

    Args:
        budgets: those below 1 within the range of the network's own.
    """
    if budgets == network.budgets:
        return
    own = network.budgets.adaptive
    for module, name in _owned(network):
        before = getattr(module, name)
        held = nn.ModuleDict({b.name: _of(before, own, b) for b in budgets.adaptive} if len(before) else {})
        held.training = network.training  # itself; what it holds keeps its own mode
        setattr(module, name, held)
    network.set_budgets(budgets)
    network.curves = {}


def around(budgets: tuple[Budget, ...], budget: float) -> tuple[Budget, Budget, float]:
    """The two neighbouring budgets between which one lies, and its share of the way from the first to the second.

    Raises:
        UserError: for one outside of their range.
    """
    for low, high in pairwise(budgets):
        if low <= budget <= high:
            return low, high, (budget - low) / (high - low)
    raise UserError(f"budget {budget:g} is outside the range from {budgets[0]:g} to {budgets[-1]:g} that is trained")


def _owned(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The modules that hold something for every budget, and under which name."""
    for module in list(network.modules()):
        for name in ("mask_units", "per_budget"):
            if isinstance(getattr(module, name, None), nn.ModuleDict):
                yield module, name


@torch.no_grad()
def _of(owned: nn.ModuleDict, own: tuple[Budget, ...], budget: Budget) -> nn.Module:
    """What a budget owns: its own, or a copy between its neighbours'."""
    if budget.name in owned:
        return owned[budget.name]
    low, high, share = around(own, budget)
    made, other = copy.deepcopy(owned[low.name]), owned[high.name].state_dict()
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(mixed(tensor, other[name], share))
    return made
