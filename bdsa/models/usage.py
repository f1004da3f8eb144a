"""What one forward pass asks for and what it used: returned beside the logits, never kept in a module."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """How the adaptive blocks are to run.

    Attributes:
        budget: name of the budget ("b030"), or None for the dense network.
        temperature: tau of the straight-through gradient.
        noise: whether Gumbel noise is added to the mask logits.
        differentiable_dilation: whether the first layer's cost carries a gradient to the masks.
        part: (r, n) where the images are the r-th of n equal parts of a batch; see `gumbel_difference`.
    """
    budget: str | None
    temperature: float = 1.0
    noise: bool = False
    differentiable_dilation: bool = True
    part: tuple[int, int] = (0, 1)


class BlockUsage(NamedTuple):
    """One block's part of a `Usage`; see there."""
    mask: Tensor       # bool [B, 1, h, w]
    cost: Tensor       # float64 [B], conditional MACs that ran
    total: int         # conditional MACs of the dense block
    mask_macs: int     # MACs of the mask unit itself
    logits: Tensor | None


@dataclass
class Usage:
    """What every image of a batch used.

    Attributes:
        masks: a list over blocks of bool [B, 1, h, w] at the block's output resolution.
        mask_logits: a list over blocks of float32 [B, 1, h, w] without noise (None: dense block).
        block_fractions: float64 [B, blocks], share of each block's conditional MACs that ran.
        conditional_fraction: float64 [B], F = sum(cost) / sum(total): what a budget asks for.
        macs: float64 [B], MACs of the whole network, mask units included.

    Fractions carry a gradient to the mask units while training.
    """
    masks: list[Tensor]
    mask_logits: list[Tensor | None]
    block_fractions: Tensor
    conditional_fraction: Tensor
    macs: Tensor

    @classmethod
    def gather(cls, blocks: list[BlockUsage], dense_macs: int) -> Usage:
        """Sum up the blocks of a network whose dense form costs `dense_macs` per image.

        The totals stay Python numbers: as a tensor they would have to be copied to the device, which waits for it.
        """
        costs = torch.stack([b.cost for b in blocks], dim=1)                # [B, blocks]
        total = sum(b.total for b in blocks)
        constant = dense_macs - total + sum(b.mask_macs for b in blocks)
        cost = costs.sum(dim=1)                                             # [B]
        return cls(masks=[b.mask for b in blocks], mask_logits=[b.logits for b in blocks],
                   block_fractions=torch.stack([b.cost / b.total for b in blocks], dim=1),
                   conditional_fraction=cost / total,
                   macs=cost.detach() + constant)
