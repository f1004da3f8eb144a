"""One adaptive block in sparse execution on a GPU."""
from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from bdsa.method.norms import Blend
from bdsa.models.blocks import AdaptiveBlock
from bdsa.sparse.block_step import BlockStep
from bdsa.sparse.gpu.lists import Lists, Wanted
from bdsa.sparse.gpu.plans import plan_block
from bdsa.sparse.scores import Following, Member
from bdsa.sparse.workspace import Workspace


@dataclass
class _Decided:
    """What a unit has decided in this thread, until its block runs.

    Attributes:
        counts: int32 [4], zeros before.
        masked: whether it will run masked.
    """
    counts: Tensor
    masked: bool
    mask: Tensor | None = None
    lists: Lists | None = None


class GpuBlockStep(BlockStep):
    """A block at a budget, for maps of a type. It runs masked always or never: its mask is not waited for."""

    def __init__(self, block: AdaptiveBlock, budget: str, dtype: torch.dtype, norms: str | Blend) -> None:
        super().__init__(block, budget, plan_block(block, norms, dtype), norms)
        self.here = threading.local()

    def begin(self, counts: Tensor, break_even: float | None = None) -> None:
        """Before an inference: where the numbers of positions go, int32 [4], zeros; and which way the block goes."""
        self.here.decided = _Decided(counts, self.goes_masked(None, break_even))
        self.rows = counts[:2]

    @property
    def wanted(self) -> Wanted:
        """The lists that the block needs: none where it runs masked."""
        return Wanted() if self.here.decided.masked else self.plan.wanted

    def scores(self, x: Tensor, products: Tensor | None, workspace: Workspace, name: str, offset: float = 0.0
               ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """See `BlockStep.scores`; the lists are made too."""
        scorer, decided = self.scorer, self.here.decided
        assert isinstance(scorer, Member)
        products = scorer.board.products(x, workspace) if products is None else products
        grid = self.output_size(x)
        logits = x.new_empty(len(x), *grid, dtype=torch.float32)
        decided.mask = x.new_empty(len(x), *grid, dtype=torch.bool)
        decided.lists = Lists.room(self.wanted, decided.counts, len(x), grid, tuple(x.shape[1:3]))
        slot, bias = scorer.slot, scorer.board.offset(scorer.slot.column)
        bias = bias + offset if offset else bias
        decided.lists.decide(self.wanted, logits, decided.mask, products, bias, slot.column, tuple(x.shape[1:3]),
                             slot.stride)
        return products, logits, decided.mask

    def goes_masked(self, mask: Tensor | None, break_even: float | None) -> bool:
        """Whether the block runs masked, whatever the mask."""
        return self.plan is None or break_even is not None

    def run_sparse(self, x: Tensor, mask: Tensor, identity: Tensor, following: Following | None = None) -> None:
        """See `BlockStep.run_sparse`; the mask may be another than the unit's."""
        decided = self.here.decided
        lists = decided.lists
        if mask is not decided.mask:
            decided.counts.zero_()
            lists = Lists.room(self.wanted, decided.counts, len(x), tuple(mask.shape[1:]), tuple(x.shape[1:3]))
            lists.of(self.wanted, mask)
        self.plan(x, lists, identity, following)
