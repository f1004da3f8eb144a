"""An exact budget for every image: the best-scored positions until the image's own MACs reach it, and no further.

A threshold meets a budget as a mean over images: one image spends half of it, another half as much again. Here each
image has a purse. At every block the lowest threshold is taken at which what the block would cost, and what the blocks
behind it are expected to cost at the same threshold, still fits into what is left. Behind the last block nothing is
expected, so that no image can overdraw.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bdsa.method.curves import Curve, log_odds
from bdsa.method.dilation import dilate_to_input
from bdsa.method.macs import count_type

BEYOND = (0.5, 1.0, 2.0, 4.0, 8.0)  # the ends of a curve: offsets to which its slope is taken to go on


@dataclass(frozen=True)
class Costs:
    """What a decision of a block costs: MACs of a position at m, and of one at D(m).

    Attributes:
        macs: of an active position.
        dilated_macs: of a position of D(m); 0 where the block has no such layers.
        size: (H, W) of the map on which they run.
        stride, reach: of the 3x3 convolution that reads them, on that map (`bdsa.method.dilation`).
    """
    macs: int
    dilated_macs: int = 0
    size: tuple[int, int] = (0, 0)
    stride: int = 1
    reach: int = 1


@dataclass(frozen=True)
class Ahead:
    """MACs that the blocks behind one are expected to spend, by the threshold that holds for them too.

    Attributes:
        offsets: float64 [P], ascending, on the axis of the curve.
        costs: float64 [P], at each of them.
        scale: of these costs.
        moved: what the scores have been moved by, on the same axis.
    """
    offsets: Tensor
    costs: Tensor
    scale: float = 1.0
    moved: float = 0.0

    def __call__(self, thresholds: Tensor) -> Tensor:
        """At thresholds of any shape; of `count_type`."""
        counted = count_type(thresholds.device)
        costs = self.costs.to(thresholds.device, counted)
        if len(costs) == 1:
            return (self.scale * costs).expand(thresholds.shape)
        grid = self.offsets.to(thresholds.device, counted)
        wanted = self.moved - thresholds.to(counted)
        after = torch.searchsorted(grid, wanted.contiguous()).clamp(1, len(grid) - 1)
        o1, o2, c1, c2 = grid[after - 1], grid[after], costs[after - 1], costs[after]
        return self.scale * (c1 + (c2 - c1) * ((wanted - o1) / (o2 - o1)).clamp(0, 1))


def best_within(logits: Tensor, left: Tensor, costs: Costs, ahead: Ahead) -> tuple[Tensor, Tensor]:
    """The best-scored positions that purses can pay.

    Args:
        logits: [B, 1, h, w], the scores.
        left: [B] of `count_type`, the MACs that each image may still spend.
        costs: of the block.
        ahead: what must be left for the blocks behind it.

    Returns:
        The mask, bool [B, 1, h, w], and what is left after it.
    """
    values = logits.flatten(1)
    each = torch.full_like(values, costs.macs, dtype=left.dtype)
    if costs.dilated_macs:
        dilated = dilate_to_input(logits, costs.stride, costs.size, costs.reach).flatten(1)
        needed = (dilated > -torch.inf).to(left.dtype)  # by some position
        values, each = torch.cat([values, dilated], dim=1), torch.cat([each, costs.dilated_macs * needed], dim=1)
    values, order = values.sort(dim=1, descending=True)                          # [B, n], best first
    spent = each.gather(1, order).cumsum(dim=1)                                  # in float64 exact
    fits = spent + ahead(values) <= left[:, None]
    last = torch.ones_like(fits)
    last[:, :-1] = values[:, 1:] < values[:, :-1]  # a threshold cannot part equal scores
    places = torch.arange(1, spent.shape[1] + 1, device=spent.device)
    taken = (places * (fits & last)).amax(dim=1)                                 # [B], 0: none
    index = (taken - 1).clamp(min=0)[:, None]
    threshold = values.gather(1, index)[:, 0].masked_fill(taken == 0, torch.inf)
    paid = spent.gather(1, index)[:, 0].masked_fill(taken == 0, 0.0)
    return logits >= threshold[:, None, None, None], left - paid


@dataclass(frozen=True, eq=False)
class Expected:
    """What a network's blocks are expected to spend, for images of one size.

    Attributes:
        total: conditional MACs of all blocks.
        offsets: float64 [P], on the axis of a curve; one where none was measured.
        behind: float64 [blocks, P], what the blocks behind each cost at these offsets; without a curve all that they
            could.
        known: whether there is a curve. Without it each later block is expected to spend the budget's share of its own.
    """
    total: int
    offsets: Tensor
    behind: Tensor
    known: bool

    @classmethod
    def of(cls, totals: Sequence[int], curve: Curve | None) -> Expected:
        """By the conditional MACs of each block, or of the first ones, and the curve of the masks that decide."""
        offsets, fractions = running(curve, len(totals))
        costs = fractions.T * torch.tensor(totals, dtype=torch.float64)[:, None]               # [blocks, P]
        return cls(sum(totals), offsets, costs.flip(0).cumsum(dim=0).flip(0) - costs, curve is not None)


def running(curve: Curve | None, blocks: int) -> tuple[Tensor, Tensor]:
    """What is expected to run of each block, of images of any size.

    Beyond both ends of a curve the log-odds of every block's fraction go on with the curve's own slope.

    Args:
        blocks: how many of the curve's, from the first on.

    Returns:
        float64: offsets [P] on the curve's axis, and fractions [P, blocks] at them; of no curve one offset, all.
    """
    if curve is None:
        return torch.zeros(1, dtype=torch.float64), torch.ones((1, blocks), dtype=torch.float64)
    measured = torch.tensor(curve.blocks, dtype=torch.float64).cummax(dim=0).values[:, :blocks]
    slope = (log_odds(curve.fractions[-1]) - log_odds(curve.fractions[0])) / (curve.offsets[-1] - curve.offsets[0])
    ends = torch.tensor(BEYOND, dtype=torch.float64)
    below, above = (torch.sigmoid(measured[end].clamp(1e-6, 1 - 1e-6).logit() + sign * slope * ends[:, None])
                    for end, sign in ((0, -1), (-1, 1)))
    offsets = torch.cat([curve.offsets[0] - ends.flip(0), torch.tensor(curve.offsets, dtype=torch.float64),
                         curve.offsets[-1] + ends])
    return offsets, torch.cat([below.flip(0), measured, above]).cummax(dim=0).values


class ExactBudget:
    """The purses of a batch, for one pass through the blocks in their order.

    Args:
        budget: the fraction of the conditional MACs that no image may spend more than.
        expected: of the blocks, at these images' size.
        offset: that the mask logits already hold, on the curve's axis.
    """

    def __init__(self, budget: float, expected: Expected, offset: float = 0.0) -> None:
        self.budget, self.expected, self.offset = budget, expected, offset
        self.start, self.scale = budget * expected.total, 1.0 if expected.known else budget
        self.left: Tensor | None = None  # [B] of `count_type`
        self.block = 0

    def anew(self) -> ExactBudget:
        """Full purses of the same kind, for another pass."""
        return ExactBudget(self.budget, self.expected, self.offset)

    def ahead(self) -> Ahead:
        """What the blocks behind the next one are expected to spend; it is the next one's turn then."""
        self.block += 1
        return Ahead(self.expected.offsets, self.expected.behind[self.block - 1], self.scale, self.offset)

    def mask(self, logits: Tensor, costs: Costs) -> Tensor:
        """The next block's mask, bool [B, 1, h, w], by its scores, and paid for."""
        if self.left is None:
            self.left = torch.full(logits.shape[:1], self.start, dtype=count_type(logits.device), device=logits.device)
        found, self.left = best_within(logits, self.left, costs, self.ahead())
        return found
