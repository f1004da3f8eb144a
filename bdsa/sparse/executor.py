"""Run a whole network sparsely at a budget: dense steps and blocks, packed at first use and kept."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import BlockUsage, Request
from bdsa.sparse import native
from bdsa.sparse.dense import Step, dense_steps
from bdsa.sparse.plans import Plan, plan_block, why_masked
from bdsa.sparse.scores import Board, Following, Slot, logits
from bdsa.sparse.workspace import Workspace


@dataclass
class BlockStep:
    """One block at one budget.

    Attributes:
        block: the network's own.
        plan: how it runs sparsely; None where it has no sparse form and runs masked.
        board, slot: where its mask unit's logits come from.
        reads: whether the board's products must be made here, because no block before made the map.
    """
    block: AdaptiveBlock
    plan: Plan | None
    board: Board | None = None
    slot: Slot | None = None
    reads: bool = True

    @property
    def in_place(self) -> bool:
        """Whether the output is the input with changes."""
        return self.plan is not None and self.plan.shortcut is None


@dataclass
class Executor:
    """A network at one budget, in evaluation mode.

    Attributes:
        steps: dense steps and blocks, from the image to the last map.
        rows: of the last call: for each block the rows computed at D(m) and at m, int64 [2], or None where the
            block ran masked.
    """
    steps: list[Step | BlockStep]
    rows: list[Tensor | None] = field(default_factory=list)
    workspace: Workspace = field(default_factory=Workspace)

    @classmethod
    def of(cls, trunk: Sequence[nn.Module], budget: str) -> Executor:
        """Fold and pack a network's trunk for a budget, by name."""
        width, steps, waiting = native.panel(), [], []
        for module in trunk:
            if isinstance(module, AdaptiveBlock):
                steps += [*dense_steps(waiting, width), BlockStep(module, plan_block(module, budget, width))]
                waiting = []
            else:
                waiting.append(module)
        steps += dense_steps(waiting, width)
        _share_boards(steps, budget, width)
        return cls(steps)

    def __call__(self, x: Tensor, request: Request, given: Sequence[Tensor] | None,
                 count: bool) -> tuple[Tensor, list[BlockUsage]]:
        """Compute the last feature map.

        Args:
            x: [B, 3, H, W], left as it is.
            request: the budget; what concerns training is ignored.
            given: masks in place of the units' decisions, bool [B, 1, h, w] a block.
            count: whether to count what was used.

        Returns:
            [B, C, h, w] in channels-last memory that the next call overwrites, and the blocks' usage, empty unless `count`.
        """
        x = x.permute(0, 2, 3, 1).contiguous()
        masks, used, self.rows, products = iter(given or ()), [], [], None
        for i, step in enumerate(self.steps):
            if not isinstance(step, BlockStep):
                x = step(x, self.workspace, f"map {i}")
                continue
            if step.reads:
                products = step.board.products(x, self.workspace)
            scored = logits(products, step.slot, x)                        # [B, h, w]
            mask = scored >= 0 if given is None else _matching(next(masks), scored)
            if count:
                used.append(_usage(step, request, x, scored, mask, given is not None))
            if step.plan is None:
                x = step.block.masked(x.permute(0, 3, 1, 2), mask[:, None].to(x.dtype), request.budget)
                x = x.permute(0, 2, 3, 1).contiguous()
                self.rows.append(None)
                continue
            identity = x if step.in_place else step.plan.shortcut(x, self.workspace, f"map {i}")
            following, after = None, self._next(i)
            if after is not None:
                products = products if step.in_place else after.board.room(identity, self.workspace)
                following = Following(after.board, products, after.slot.panel)
            self.rows.append(step.plan(x, mask, identity, following))
            x = identity
        return x.permute(0, 3, 1, 2), used

    def masked_because(self) -> set[str]:
        """What blocks have that the kernels do not know."""
        return {why_masked(s.block) for s in self.steps if isinstance(s, BlockStep) and s.plan is None}

    def _next(self, index: int) -> BlockStep | None:
        """The block right behind a step, if it decides by products that the step's block is to keep."""
        after = self.steps[index + 1] if index + 1 < len(self.steps) else None
        return after if isinstance(after, BlockStep) and not after.reads else None


def _share_boards(steps: list[Step | BlockStep], budget: str, width: int) -> None:
    """One board for the mask units of blocks that follow each other on one map."""
    groups: list[list[BlockStep]] = []
    before: Step | BlockStep | None = None
    for step in steps:
        if isinstance(step, BlockStep):
            if isinstance(before, BlockStep) and before.in_place:
                groups[-1].append(step)
            else:
                groups.append([step])
            step.reads = not (isinstance(before, BlockStep) and before.plan is not None)
        before = step
    for group in groups:
        board = Board([step.block.mask_units[budget] for step in group], width)
        for step, slot in zip(group, board.slots):
            step.board, step.slot = board, slot


def _matching(given: Tensor, scored: Tensor) -> Tensor:
    expected = [len(scored), 1, *scored.shape[1:]]
    if list(given.shape) != expected:
        raise ValueError(f"a given mask is {list(given.shape)} and the block decides {expected}")
    return given[:, 0].bool().contiguous()


def _usage(step: BlockStep, request: Request, x: Tensor, scored: Tensor, mask: Tensor, given: bool) -> BlockUsage:
    """The same figures as masked execution gives for this decision."""
    mask, scored = mask[:, None], scored[:, None]                          # [B, 1, h, w]
    decided_by = mask.float() - 0.5 if given else scored
    cost, total = step.block.cost(mask.float(), decided_by, x.permute(0, 3, 1, 2), request)
    return BlockUsage(mask, cost, total, step.block.mask_units[request.budget].macs(*mask.shape[2:]), scored)


def refusal(x: Tensor) -> str | None:
    """Why an input cannot run sparsely, or None."""
    if x.dtype != torch.float32:
        return f"the sparse kernels compute in float32, not {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on"
    return None
