"""Run a whole network sparsely at a budget: dense steps and blocks, packed at first use and kept."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        break_even: the density above which the block runs masked; None: it never does (`bdsa.sparse.auto`).
    """
    block: AdaptiveBlock
    plan: Plan | None
    board: Board | None = None
    slot: Slot | None = None
    break_even: float | None = None

    @property
    def in_place(self) -> bool:
        """Whether the output is the input with changes."""
        return self.plan is not None and self.plan.shortcut is None

    def scores(self, x: Tensor, products: Tensor | None, workspace: Workspace) -> tuple[Tensor, Tensor]:
        """The board's products, made here unless they are given, and the unit's logits [B, h, w]."""
        products = self.board.products(x, workspace) if products is None else products
        return products, logits(products, self.slot, x)

    def identity(self, x: Tensor, mask: Tensor, workspace: Workspace, name: str) -> Tensor:
        """What the residual is added to at the mask: x itself, or the shortcut's output in the room of that name."""
        return x if self.plan.shortcut is None else self.plan.shortcut(x, mask, workspace, name)

    def goes_masked(self, mask: Tensor) -> bool:
        """Whether the block runs masked for a mask, bool [B, h, w]."""
        if self.plan is None:
            return True
        return self.break_even is not None and mask.count_nonzero().item() > self.break_even * mask.numel()

    def run_masked(self, x: Tensor, mask: Tensor, budget: str) -> Tensor:
        """x: [B, H, W, C], mask: bool [B, h, w] -> the output [B, h, w, C'], in memory of its own."""
        y = self.block.masked(x.permute(0, 3, 1, 2), mask[:, None].to(x.dtype), budget)
        return y.permute(0, 2, 3, 1).contiguous()

    def run_sparse(self, x: Tensor, mask: Tensor, identity: Tensor, following: Following | None = None) -> Tensor:
        """Overwrite `identity`, x itself or what the shortcut gave, with the output; returns the rows computed [2]."""
        return self.plan(x, mask, identity, following)

    def output_size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the mask for an input [B, H, W, C]."""
        return (x.shape[1] - 1) // self.slot.stride + 1, (x.shape[2] - 1) // self.slot.stride + 1


@dataclass
class Executor:
    """A network at one budget, in evaluation mode.

    Attributes:
        steps: dense steps and blocks, from the image to the last map.
        rows: of the last call: for each block the rows computed at D(m) and at m, int64 [2], or None where the
            block ran masked.
        workspace: the maps' memory.
        chosen_for: the conditions that the blocks' ways were chosen for.
    """
    steps: list[Step | BlockStep]
    rows: list[Tensor | None] = field(default_factory=list)
    workspace: Workspace = field(default_factory=Workspace)
    chosen_for: Any = None

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
                 count: bool, on_input: Callable[[BlockStep, Tensor], None] | None = None
                 ) -> tuple[Tensor, list[BlockUsage]]:
        """Compute the last feature map.

        Args:
            x: [B, 3, H, W], left as it is.
            request: the budget; what concerns training is ignored.
            given: masks in place of the units' decisions, bool [B, 1, h, w] a block.
            count: whether to count what was used.
            on_input: called with each block and its input [B, H, W, C].

        Returns:
            [B, C, h, w] in channels-last memory that the next call overwrites, and the blocks' usage, empty
            unless `count`.
        """
        x = x.permute(0, 2, 3, 1).contiguous()
        masks, used, self.rows, products = iter(given or ()), [], [], None
        fresh = False  # whether the products are those of x
        for i, step in enumerate(self.steps):
            if not isinstance(step, BlockStep):
                x, fresh = step(x, self.workspace, f"map {i}"), False
                continue
            if on_input is not None:
                on_input(step, x)
            products, scored = step.scores(x, products if fresh else None, self.workspace)
            mask = scored >= 0 if given is None else _matching(next(masks), scored)
            if count:
                used.append(_usage(step, request, x, scored, mask, given is not None))
            if step.goes_masked(mask):
                x, fresh = step.run_masked(x, mask, request.budget), False
                self.rows.append(None)
                continue
            identity = step.identity(x, mask, self.workspace, f"map {i}")
            following, after = None, self._next(i)
            if after is not None:
                products = products if step.in_place else after.board.room(identity, self.workspace)
                following = Following(after.board, products, after.slot.stop)
            self.rows.append(step.run_sparse(x, mask, identity, following))
            x, fresh = identity, after is not None
        return x.permute(0, 3, 1, 2), used

    def inputs(self, x: Tensor, request: Request) -> list[tuple[BlockStep, Tensor]]:
        """Each block and a copy of what it gets for images x [B, 3, H, W]."""
        seen: list[tuple[BlockStep, Tensor]] = []
        self(x, request, None, False, lambda step, features: seen.append((step, features.clone())))
        return seen

    def set_break_even(self, densities: Sequence[float]) -> None:
        """Let each block run masked above its density."""
        for step, density in zip(self.blocks(), densities, strict=True):
            step.break_even = density if density < 1 else None

    def blocks(self) -> list[BlockStep]:
        """The adaptive blocks, in order."""
        return [s for s in self.steps if isinstance(s, BlockStep)]

    def masked_because(self) -> set[str]:
        """What blocks have that the kernels do not know."""
        return {why_masked(s.block) for s in self.blocks() if s.plan is None}

    def _next(self, index: int) -> BlockStep | None:
        """The block right behind a step, which decides by products that the step's block can keep up to date."""
        after = self.steps[index + 1] if index + 1 < len(self.steps) else None
        return after if isinstance(after, BlockStep) else None


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
