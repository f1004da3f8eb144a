"""One adaptive block in sparse execution: its decision, its two ways, and what it used."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from bdsa.method.exact import ExactBudget
from bdsa.method.masks import MaskUnit
from bdsa.method.norms import Blend
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import BlockUsage, Request
from bdsa.sparse import operators
from bdsa.sparse.folded_block import folded_block
from bdsa.sparse.plans import Plan
from bdsa.sparse.recording import cannot_record
from bdsa.sparse.scores import Alone, Following, Member
from bdsa.sparse.workspace import Workspace


@dataclass
class BlockStep:
    """One block at one budget.

    Attributes:
        block: the network's own.
        budget: its name.
        norms: the name of the budget whose norms it has, or a blend.
        plan: how it runs sparsely; None where it has no sparse form and runs masked.
        scorer: where its mask unit's logits come from; None in the dense network.
        rows: of the last sparse run: the rows computed at D(m) and at m, int64 [2]; without layers at D(m) none there.
        ran_masked: whether the last run was masked.
        folded: what runs then, made when it first does.
    """
    block: AdaptiveBlock
    budget: str
    plan: Plan | None
    norms: str | Blend
    scorer: Member | Alone | None = None
    rows: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64, device="cpu"))
    ran_masked: bool = False
    folded: AdaptiveBlock | None = None

    @cached_property
    def channels(self) -> int:
        """Of the block's input."""
        return self.block.geometry()[0]

    @property
    def in_place(self) -> bool:
        """Whether the output is the input with changes."""
        return self.plan is not None and self.plan.shortcut is None

    def scores(self, x: Tensor, products: Tensor | None, workspace: Workspace, name: str, offset: float = 0.0
               ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Its board's products, made here unless they are given, and the unit's logits, moved, and mask [B, h, w].

        The dense network has no unit: no logits, and a mask of ones.
        """
        if self.scorer is None:
            shape = (len(x), *self.output_size(x))
            return None, None, workspace.room(f"{name} mask", shape, x, torch.bool).fill_(True)
        if isinstance(self.scorer, Alone):
            return None, *self.scorer.decide(x, workspace, name, offset)
        products = self.scorer.board.products(x, workspace) if products is None else products
        return products, *self.scorer.decide(x, products, workspace, name, offset)

    def decide(self, x: Tensor, scored: Tensor, mask: Tensor, exact: ExactBudget, left: Tensor) -> None:
        """Decide by purses: scored, mask: [B, h, w], the logits and what becomes the mask; left: [B], float64."""
        costs = self.block.costs(x.permute(0, 3, 1, 2), scored[:, None])
        start = exact.start if exact.block == 0 else -1.0
        ahead = exact.ahead()
        operators.exact(mask, left, scored, costs.macs, costs.dilated_macs, *costs.size, costs.stride, costs.reach,
                        ahead.offsets, ahead.costs, start, ahead.scale, ahead.moved)

    def identity(self, x: Tensor, mask: Tensor, workspace: Workspace, name: str) -> Tensor:
        """Where the output goes: x itself, or the room of that name (see `Shortcut.identity`).

        Raises:
            ValueError: where it is not of the residual's size.
        """
        found = x if self.plan.shortcut is None else self.plan.shortcut.identity(x, mask, workspace, name)
        if found.shape != (*mask.shape, self.plan.columns):
            raise ValueError(f"a block's shortcut gives {list(found.shape)}, and its output is "
                             f"{[*mask.shape, self.plan.columns]}")
        return found

    def goes_masked(self, mask: Tensor, break_even: float | None) -> bool:
        """Whether the block runs masked for a mask, bool [B, h, w].

        Args:
            break_even: the density above which it does; None: it never does (`bdsa.sparse.auto`).
        """
        if self.plan is None:
            return True
        if break_even is None:
            return False
        cannot_record()  # another mask may decide otherwise
        return mask.count_nonzero().item() > break_even * mask.numel()

    def run_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, H, W, C], mask: bool [B, h, w] -> the output [B, h, w, C'], in memory of its own."""
        cannot_record()
        if self.folded is None:
            self.folded = folded_block(self.block, self.norms).to(x.dtype)
        y = self.folded.masked(x.permute(0, 3, 1, 2), mask[:, None].to(x.dtype), self.norms)
        return y.permute(0, 2, 3, 1).contiguous()

    def run_sparse(self, x: Tensor, mask: Tensor, identity: Tensor, following: Following | None = None) -> None:
        """Make `identity`, x itself or the shortcut's place, the output."""
        self.plan(x, mask, identity, self.rows, following)

    def output_size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the mask for an input [B, H, W, C]."""
        stride = self.block.geometry()[1]
        return (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1

    def usage(self, x: Tensor, scored: Tensor, mask: Tensor, given: bool) -> BlockUsage:
        """The same figures as masked execution gives for a decision.

        Args:
            x: [B, H, W, C], the block's input.
            scored, mask: [B, h, w], the unit's logits and what was decided.
            given: whether the mask is not the unit's.
        """
        mask, scored = mask[:, None], scored[:, None]                          # [B, 1, h, w]
        decided_by = mask.float() - 0.5 if given else scored
        cost, total = self.block.cost(mask.float(), decided_by, x.permute(0, 3, 1, 2), Request(self.budget))
        return BlockUsage(mask, cost, total, self.block.mask_units[self.budget].macs(*mask.shape[2:]), scored)


def score_together(steps: Sequence[object], budget: str,
                   make: Callable[[list[MaskUnit]], Sequence[Member | Alone]]) -> None:
    """Let the mask units of blocks that follow each other on one map read it together; the dense network has none.

    Args:
        make: gives such units, in the order in which they decide, what makes their logits.
    """
    groups: list[list[BlockStep]] = []
    before: object = None
    for step in steps:
        if isinstance(step, BlockStep) and budget in step.block.mask_units:
            if isinstance(before, BlockStep) and before.in_place:
                groups[-1].append(step)
            else:
                groups.append([step])
        before = step
    for group in groups:
        for step, scorer in zip(group, make([step.block.mask_units[budget] for step in group])):
            step.scorer = scorer
