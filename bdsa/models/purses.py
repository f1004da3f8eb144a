"""Budgets that no image exceeds, for blocks that are called one by one: by feature extractors, or a loop by hand."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from bdsa.errors import UserError
from bdsa.method.curves import Point
from bdsa.method.exact import ExactBudget
from bdsa.models.any_budget import AnyBudget


class Purses:
    """The purses of pass after pass: each begins with a network's first block, and goes through the others in order.

    Where a pass ends before the last block, what was expected of the rest is not spent.

    Args:
        network: an adaptive network in evaluation mode.
        point: where it runs.
    """

    def __init__(self, network: AnyBudget, point: Point) -> None:
        self.network, self.point = network, point
        self.places = {id(block): place for place, block in enumerate(network.adaptive_blocks())}
        self.current: ExactBudget | None = None

    @torch.compiler.disable
    def __call__(self, block: nn.Module, x: Tensor) -> ExactBudget:
        """What decides for a block whose input is x [B, C, h, w].

        Raises:
            UserError: for a block out of turn.
        """
        place = self.places[id(block)]
        if place == 0:
            self.current = self.network.exact_from(self.point, x)
        if self.current is None or self.current.block != place:
            raise UserError(f"per_image=True pays block by block from a network's first one on, and block {place} was "
                            f"called out of turn: call all that are before it, in their order")
        return self.current
