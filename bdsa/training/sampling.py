"""Which budgets a step trains: those that are listed, by turns or several at once, or any of their range."""
from __future__ import annotations

import random

import torch

from bdsa.budgets import Budget, Budgets
from bdsa.data.seeds import mixed_seed
from bdsa.errors import UserError
from bdsa.method.curves import Point
from bdsa.method.norms import Blend
from bdsa.models.filling import around


class Sampling:
    """The budgets of every step, by its number and the seed: all processes, and a resumed training, draw alike.

    In turns, a step trains one budget. Continuously, the turns of those below 1 go to budgets of the range from the
    smallest to the largest of them, each to one of its own equal part of the range: the dense network has its turns
    as before. In a sandwich those between the largest and the smallest are drawn likewise.

    Args:
        budgets: that are listed.
        continuous: whether budgets between them are trained.
        schedule, between: as `budgets.schedule` and `budgets.between` say.
        seed: of what is drawn.

    Raises:
        UserError: for a range of one budget.
    """

    def __init__(self, budgets: Budgets, continuous: bool = False, schedule: str = "round_robin", between: int = 1,
                 seed: int = 0) -> None:
        if continuous and len(budgets.adaptive) < 2:
            raise UserError(f"sample=continuous trains a range of budgets below 1, and {budgets.plain()} has "
                            f"{len(budgets.adaptive)} of them: give two or more, such as [0.3, 0.7, 1.0]")
        self.budgets, self.continuous, self.seed = budgets, continuous, seed
        self.schedule, self.between = schedule, between

    def at(self, step: int) -> tuple[Budget, ...]:
        """The budgets that a step trains, in order: one by turns, or the largest, the smallest and some between."""
        below, count = self.budgets.adaptive, len(self.budgets)
        if self.schedule == "sandwich":
            if not self.continuous:
                return self.budgets.sandwich_at(step, self.between)
            return (*self.budgets.sandwich_at(step, 0), *self._drawn(step, self.between, 0, self.between))
        budget = self.budgets.at_step(step)
        if not self.continuous or budget.is_dense:
            return (budget,)
        return tuple(self._drawn(step, 1, step % count, len(below)))

    def _drawn(self, step: int, count: int, first: int, of: int) -> list[Budget]:
        """Budgets from parts number `first` and on, of as many equal ones of the range."""
        low, high = self.budgets.adaptive[0], self.budgets.adaptive[-1]
        draw = random.Random(mixed_seed("budget", self.seed, step)).random
        return [Budget(low + (high - low) * (first + i + draw()) / of) for i in range(count)]

    def ends(self, budget: Budget) -> tuple[tuple[Budget, float], ...]:
        """The listed budgets whose masks and norms train at a budget, and each one's share of it.

        Raises:
            UserError: for a budget outside of the range.
        """
        if not self.continuous or self.budgets.has(budget):
            return ((budget, 1.0),)
        low, high, share = around(self.budgets.adaptive, budget)
        return (low, 1 - share), (high, share)

    def asked(self, budget: Budget, device: torch.device) -> float | Point:
        """What the network is called with: the budget, or the point between two listed ones.

        Its share is a tensor, so that a compiled network has one graph for all budgets between the two.
        """
        if len(ends := self.ends(budget)) == 1:
            return float(budget)
        (low, _), (high, share) = ends
        return Point(low.name, blend=Blend(low.name, high.name, torch.full((), share, device=device), whole=True))

    def kind(self, budget: Budget) -> str:
        """What passes have in common that reach the same parameters."""
        return "-".join(end.name for end, _ in self.ends(budget))

    def weight(self, budget: Budget, weights: list[float]) -> float:
        """A budget's weight, of those of the listed ones; between two of them on the line."""
        return sum(share * weights[self.budgets.values.index(end)] for end, share in self.ends(budget))

    def told(self, budget: Budget, fraction: torch.Tensor) -> tuple[str, torch.Tensor]:
        """Under which listed budget's name a fraction is reported, the nearest's, and what: missed as this one was."""
        nearest = max(self.ends(budget), key=lambda end: end[1])[0]
        return nearest.name, fraction if nearest == budget else fraction + (nearest - budget)
