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

BEYOND = (0.5, 1.0, 2.0, 4.0, 8.0)  # the ends of a curve: offsets to which its slope is taken to go on


@dataclass(frozen=True)
class Decision:
    """What a block has to decide.

    Attributes:
        logits: [B, 1, h, w], the scores of its positions.
        macs: of an active position.
        dilated: [B, 1, H, W], the scores where the layers at D(m) run: the best of the positions that need it; None
            where the block has no such layers.
        dilated_macs: of a position there.
    """
    logits: Tensor
    macs: int
    dilated: Tensor | None = None
    dilated_macs: int = 0


class ExactBudget:
    """The purses of a batch, for one pass through the blocks in their order.

    Args:
        budget: the fraction of the conditional MACs that no image may spend more than.
        totals: conditional MACs of every block when all of it runs, at these images' size.
        curve: of the masks that decide; None where none was measured: every later block is expected to spend the
            budget's share of its own.
        offset: that the mask logits already hold, on the curve's axis.
    """

    def __init__(self, budget: float, totals: Sequence[int], curve: Curve | None = None, offset: float = 0.0) -> None:
        self.left: Tensor | float = float(budget * sum(totals))  # then [B] float64
        self.expected = _expected(budget, totals, curve, offset)
        self.block = 0

    def mask(self, decision: Decision) -> Tensor:
        """The next block's mask, bool [B, 1, h, w], paid for."""
        scores, macs = decision.logits.flatten(1), decision.macs
        values, costs = scores, torch.full_like(scores, macs, dtype=torch.float64)
        if decision.dilated is not None:
            dilated = decision.dilated.flatten(1)
            values = torch.cat([scores, dilated], dim=1)
            costs = torch.cat([costs, torch.full_like(dilated, decision.dilated_macs, dtype=torch.float64)], dim=1)
        values, order = values.sort(dim=1, descending=True)                          # [B, n], best first
        spent = costs.gather(1, order).cumsum(dim=1)                                 # float64: exact
        left = torch.as_tensor(self.left, dtype=torch.float64, device=spent.device).expand(len(spent))
        fits = spent + self._rest(values) <= left[:, None]
        last = torch.ones_like(fits)
        last[:, :-1] = values[:, 1:] < values[:, :-1]  # a threshold cannot part equal scores
        count = spent.shape[1]
        places = torch.arange(1, count + 1, device=spent.device)
        taken = (places * (fits & last)).amax(dim=1)                                 # [B], 0: none
        index = (taken - 1).clamp(min=0)[:, None]
        none = taken == 0
        threshold = values.gather(1, index)[:, 0].masked_fill(none, torch.inf)
        self.left = left - spent.gather(1, index)[:, 0].masked_fill(none, 0.0)
        self.block += 1
        return decision.logits >= threshold[:, None, None, None]

    def _rest(self, thresholds: Tensor) -> Tensor:
        """MACs that the blocks behind this one are expected to spend at a threshold; float64, of the same shape."""
        offsets, rest = self.expected
        row = rest[self.block].to(thresholds.device)
        if len(row) == 1:
            return row.expand(thresholds.shape)
        grid = offsets.to(thresholds.device)
        wanted = -thresholds.double()
        after = torch.searchsorted(grid, wanted.contiguous()).clamp(1, len(grid) - 1)
        o1, o2, r1, r2 = grid[after - 1], grid[after], row[after - 1], row[after]
        return r1 + (r2 - r1) * ((wanted - o1) / (o2 - o1)).clamp(0, 1)


def _expected(budget: float, totals: Sequence[int], curve: Curve | None, offset: float) -> tuple[Tensor, Tensor]:
    """Further offsets, float64 [P], and for every block what those behind it cost at them, [blocks, P].

    Beyond both ends of a curve the log-odds of every block's fraction go on with the curve's own slope.
    """
    if curve is None:
        offsets, blocks = torch.zeros(1, dtype=torch.float64), torch.full((1, len(totals)), budget, dtype=torch.float64)
    else:
        measured = torch.tensor(curve.blocks, dtype=torch.float64).cummax(dim=0).values    # [P, blocks]
        slope = (log_odds(curve.fractions[-1]) - log_odds(curve.fractions[0])) / (curve.offsets[-1] - curve.offsets[0])
        ends = torch.tensor(BEYOND, dtype=torch.float64)
        below, above = (torch.sigmoid(measured[end].clamp(1e-6, 1 - 1e-6).logit() + sign * slope * ends[:, None])
                        for end, sign in ((0, -1), (-1, 1)))
        blocks = torch.cat([below.flip(0), measured, above]).cummax(dim=0).values
        offsets = torch.cat([curve.offsets[0] - ends.flip(0), torch.tensor(curve.offsets, dtype=torch.float64),
                             curve.offsets[-1] + ends]) - offset
    costs = blocks.T * torch.tensor(totals, dtype=torch.float64)[:, None]                  # [blocks, P]
    return offsets, costs.flip(0).cumsum(dim=0).flip(0) - costs
