"""What one forward pass asks for and what it used: returned beside the logits, never kept in a module."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bdsa.method.exact import ExactBudget
from bdsa.method.norms import Blend

COSTS = ("block_fractions", "conditional_fraction", "macs", "loss_block_fractions", "loss_fraction")  # of a Usage


@dataclass(frozen=True)
class Request:
    """How the adaptive blocks are to run.

    Attributes:
        budget: name of the budget ("b030"), or None for the dense network.
        temperature: tau of the straight-through gradient.
        noise: whether Gumbel noise is added to the mask logits.
        differentiable_dilation: whether the first layer's cost carries a gradient to the masks.
        published_cost: whether the budget losses see the MACs that the authors' code counts: the first
            layer of a strided bottleneck at output resolution, grouped convolutions divided by their
            groups twice. What is reported stays what is executed.
        offset: added to the mask logits: a budget between those that were trained (`bdsa.method.curves`).
        blend: norms in place of the budget's own.
        exact: decides instead of the threshold, so that no image spends more than its budget; for one pass.
        shard: (r, n) where the images are the r-th of n equal parts of a batch; see `gumbel_difference`.
    """
    budget: str | None
    temperature: float = 1.0
    noise: bool = False
    differentiable_dilation: bool = True
    published_cost: bool = False
    shard: tuple[int, int] = (0, 1)
    offset: float = 0.0
    blend: Blend | None = None
    exact: ExactBudget | None = None


class BlockUsage(NamedTuple):
    """One block's part of a `Usage`; see there."""
    mask: Tensor       # bool [B, 1, h, w]
    cost: Tensor       # float64 [B], conditional MACs that ran
    total: int         # conditional MACs of the dense block
    mask_macs: int     # MACs of the mask unit itself
    logits: Tensor | None
    loss_cost: tuple[Tensor, int] | None = None  # cost and total for the budget losses; None: those above


@dataclass
class Usage:
    """What every image of a batch used.

    Attributes:
        masks: a list over blocks of bool [B, 1, h, w] at the block's output resolution.
        mask_logits: a list over blocks of float32 [B, 1, h, w] without noise (None: dense block).
        block_fractions: float64 [B, blocks], share of each block's conditional MACs that ran.
        conditional_fraction: float64 [B], F = sum(cost) / sum(total): what a budget asks for.
        macs: float64 [B], MACs of the whole network, mask units included.
        loss_block_fractions, loss_fraction: the two fractions as the budget losses see them; they differ
            from those above only where the request says `published_cost`.

    Fractions carry a gradient to the mask units while training. It is a pytree: `torch.utils._pytree.tree_map`,
    torch.export and data-parallel wrappers see its tensors.
    """
    masks: list[Tensor]
    mask_logits: list[Tensor | None]
    block_fractions: Tensor
    conditional_fraction: Tensor
    macs: Tensor
    loss_block_fractions: Tensor
    loss_fraction: Tensor

    @classmethod
    def gather(cls, blocks: list[BlockUsage], dense_macs: int) -> Usage:
        """Sum up the blocks of a network whose dense form costs `dense_macs` per image.

        The totals stay Python numbers: as a tensor they would have to be copied to the device, which waits for it.
        """
        block_fractions, fraction, cost = _fractions([(b.cost, b.total) for b in blocks])
        loss_block_fractions, loss_fraction = block_fractions, fraction
        if any(b.loss_cost is not None for b in blocks):
            loss_block_fractions, loss_fraction, _ = _fractions([b.loss_cost or (b.cost, b.total) for b in blocks])
        constant = dense_macs - sum(b.total for b in blocks) + sum(b.mask_macs for b in blocks)
        return cls(masks=[b.mask for b in blocks], mask_logits=[b.logits for b in blocks],
                   block_fractions=block_fractions, conditional_fraction=fraction, macs=cost.detach() + constant,
                   loss_block_fractions=loss_block_fractions, loss_fraction=loss_fraction)

    @classmethod
    def join(cls, parts: list[Usage], order: Tensor) -> Usage:
        """The usage of a batch from that of its parts; `order`, int64 [B]: of the parts in a row, which is whose.

        Where a part ran densely and another did not, its mask logits are infinite.
        """
        def whole(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))[order]

        masks = [list(each) for each in zip(*(p.masks for p in parts), strict=True)]
        logits: list[Tensor | None] = []
        for mask, each in zip(masks, zip(*(p.mask_logits for p in parts), strict=True)):
            known = [torch.full(m.shape, torch.inf, device=m.device) if own is None else own
                     for m, own in zip(mask, each)]
            logits.append(None if all(own is None for own in each) else whole(known))
        return cls(masks=[whole(each) for each in masks], mask_logits=logits,
                   **{name: whole([getattr(p, name) for p in parts]) for name in COSTS})

    def after(self, rows: Tensor, again: Usage) -> Usage:
        """What is used where some images are looked at twice: costs add up, and the second look's masks stay.

        Args:
            rows: int64 [n], which images of this usage `again` is of.

        Fractions may then exceed 1. Where the second look was dense, mask logits are infinite.
        """
        logits: list[Tensor | None] = []
        for own, other in zip(self.mask_logits, again.mask_logits, strict=True):
            if own is not None:
                own = own.index_fill(0, rows, torch.inf) if other is None else own.index_copy(0, rows, other)
            logits.append(own)
        return Usage(masks=[m.index_copy(0, rows, other) for m, other in zip(self.masks, again.masks, strict=True)],
                     mask_logits=logits,
                     **{name: getattr(self, name).index_add(0, rows, getattr(again, name)) for name in COSTS})


def _fractions(blocks: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Each block's share [B, blocks], the network's [B] and the cost [B], of (cost [B], total) a block."""
    cost = torch.stack([cost for cost, _ in blocks], dim=1).sum(dim=1)                # [B]
    shares = torch.stack([cost / total for cost, total in blocks], dim=1)            # [B, blocks]
    return shares, cost / sum(total for _, total in blocks), cost


pytree.register_pytree_node(
    Usage, lambda usage: ([getattr(usage, f.name) for f in fields(Usage)], None),
    lambda values, _: Usage(*values), serialized_type_name="bdsa.Usage")
