"""Run a whole network sparsely at a budget: dense steps and blocks, packed at first use and kept."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import BlockUsage, Request
from bdsa.sparse import native, operators
from bdsa.sparse.dense import Convolution, Step, dense_steps, head_steps, padded
from bdsa.sparse.folded_block import folded_block
from bdsa.sparse.plans import Plan, plan_block, why_masked
from bdsa.sparse.recording import Recording, cannot_record, recorded
from bdsa.sparse.scores import Alone, Following, Member, scorers
from bdsa.sparse.workspace import Workspace


@dataclass
class BlockStep:
    """One block at one budget.

    Attributes:
        block: the network's own.
        budget: its name.
        plan: how it runs sparsely; None where it has no sparse form and runs masked.
        scorer: where its mask unit's logits come from.
        break_even: the density above which the block runs masked; None: it never does (`bdsa.sparse.auto`).
        rows: of the last sparse run: the rows computed at D(m) and at m, int64 [2].
        ran_masked: whether the last run was masked.
        folded: what runs then, made when it first does.
    """
    block: AdaptiveBlock
    budget: str
    plan: Plan | None
    scorer: Member | Alone | None = None
    break_even: float | None = None
    rows: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    ran_masked: bool = False
    folded: AdaptiveBlock | None = None

    @property
    def in_place(self) -> bool:
        """Whether the output is the input with changes."""
        return self.plan is not None and self.plan.shortcut is None

    def scores(self, x: Tensor, products: Tensor | None, workspace: Workspace, name: str
               ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Its board's products, made here unless they are given, and the unit's logits and mask [B, h, w]."""
        if isinstance(self.scorer, Alone):
            return None, *self.scorer.decide(x, workspace, name)
        products = self.scorer.board.products(x, workspace) if products is None else products
        return products, *self.scorer.decide(x, products, workspace, name)

    def identity(self, x: Tensor, mask: Tensor, workspace: Workspace, name: str) -> Tensor:
        """Where the output goes: x itself, or the room of that name (see `Shortcut.identity`)."""
        return x if self.plan.shortcut is None else self.plan.shortcut.identity(x, mask, workspace, name)

    def goes_masked(self, mask: Tensor) -> bool:
        """Whether the block runs masked for a mask, bool [B, h, w]."""
        if self.plan is None:
            return True
        return self.break_even is not None and mask.count_nonzero().item() > self.break_even * mask.numel()

    def run_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, H, W, C], mask: bool [B, h, w] -> the output [B, h, w, C'], in memory of its own."""
        cannot_record()
        if self.folded is None:
            self.folded = folded_block(self.block, self.budget)
        y = self.folded.masked(x.permute(0, 3, 1, 2), mask[:, None].to(x.dtype), self.budget)
        return y.permute(0, 2, 3, 1).contiguous()

    def run_sparse(self, x: Tensor, mask: Tensor, identity: Tensor, following: Following | None = None) -> None:
        """Make `identity`, x itself or the shortcut's place, the output."""
        self.plan(x, mask, identity, self.rows, following)

    def output_size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the mask for an input [B, H, W, C]."""
        stride = self.block.geometry()[1]
        return (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1


@dataclass
class _Inference:
    """A recording, and the rooms that it begins and ends in: image, given masks, logits."""
    recording: Recording
    image: Tensor
    masks: list[Tensor]
    logits: Tensor


@dataclass
class Executor:
    """A network at one budget, in evaluation mode.

    Attributes:
        steps: dense steps and blocks, from the image to the last map.
        head: steps from the last map to logits [B, 1, 1, classes]; None where only the network knows how.
        border: zeros around the image that the first step wants.
        workspace: the maps' memory, and the recordings of inferences.
        chosen_for: the conditions that the blocks' ways were chosen for.
        ways: the blocks' break-even densities.
    """
    steps: list[Step | BlockStep]
    head: list[Step] | None = None
    border: int = 0
    workspace: Workspace = field(default_factory=Workspace)
    chosen_for: Any = None
    ways: tuple[float | None, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, budget: str) -> Executor:
        """Fold and pack a network for a budget, by name."""
        width, steps, waiting = native.panel(), [], []
        for module in network.trunk():
            if isinstance(module, AdaptiveBlock):
                steps += [*dense_steps(waiting, width), BlockStep(module, budget, plan_block(module, budget, width))]
                waiting = []
            else:
                waiting.append(module)
        steps += dense_steps(waiting, width)
        _score_together(steps, budget, width)
        border = 0
        if isinstance(steps[0], Convolution):
            border, steps[0].padding = steps[0].padding, 0
        return cls(steps, head_steps(network, width), border)

    @property
    def rows(self) -> list[Tensor | None]:
        """Of the last call, for each block: the rows computed at D(m) and at m, int64 [2]; None where it ran masked."""
        return [None if step.ran_masked else step.rows for step in self.blocks()]

    def classify(self, x: Tensor, request: Request, given: Sequence[Tensor] | None, count: bool,
                 head: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[BlockUsage]]:
        """Logits [B, classes] and the blocks' usage, as `__call__`.

        An inference whose usage is not asked for is recorded when an image of its size comes first, then played.

        Args:
            head: the network's own, from the last map [B, C, h, w].
        """
        watched = count or torch.compiler.is_compiling() or torch.autograd._profiler_enabled()
        if watched or self.head is None:
            features, used = self(x, request, given, count)
            return (head(features) if self.head is None else self._logits(features).clone()), used
        key = (x.shape, x.device, given is None, torch.get_num_threads(), self.ways)
        if (kept := self.workspace.recordings.get(key)) is not None:
            operators.pad(kept.image, x.permute(0, 2, 3, 1), self.border)
            for room, mask in zip(kept.masks, given or ()):
                _check_size(mask, room)
                room.copy_(mask[:, 0])
            kept.recording.play()
            return kept.logits.clone(), []
        image = self._take_in(x)
        with recorded() as recording:
            features, used, masks = self._run(image, request, given, False, None)
            logits = self._logits(features)
        if recording.complete:
            self.workspace.keep(key, _Inference(recording, image, masks, logits))
        return logits.clone(), used

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
        return self._run(self._take_in(x), request, given, count, on_input)[:2]

    def _take_in(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] as the first step wants them, [B, H', W', 3]."""
        return padded(x.permute(0, 2, 3, 1), self.border, self.workspace, "image")

    def _run(self, x: Tensor, request: Request, given: Sequence[Tensor] | None, count: bool,
             on_input: Callable[[BlockStep, Tensor], None] | None) -> tuple[Tensor, list[BlockUsage], list[Tensor]]:
        """`__call__` from the image with its border, [B, H, W, 3]; also the rooms of given masks, bool [B, h, w]."""
        masks, used, products, rooms = iter(given or ()), [], None, []
        fresh = False  # whether the products are those of x
        for i, step in enumerate(self.steps):
            if not isinstance(step, BlockStep):
                x, fresh = step(x, self.workspace, f"map {i}"), False
                continue
            if on_input is not None:
                on_input(step, x)
            products, scored, mask = step.scores(x, products if fresh else None, self.workspace, f"step {i}")
            if given is not None:
                mask = self._given(next(masks), mask, f"step {i} given")
                rooms.append(mask)
            if count:
                used.append(_usage(step, request, x, scored.clone(), mask.clone(), given is not None))
            step.ran_masked = step.goes_masked(mask)
            if step.ran_masked:
                x, fresh = step.run_masked(x, mask), False
                continue
            identity = step.identity(x, mask, self.workspace, f"map {i}")
            following = self._following(i, products, identity)
            step.run_sparse(x, mask, identity, following)
            x, products, fresh = identity, following and following.products, following is not None
        return x.permute(0, 3, 1, 2), used, rooms

    def _given(self, mask: Tensor, like: Tensor, name: str) -> Tensor:
        """A given mask [B, 1, h, w] in the room of that name, bool [B, h, w]."""
        _check_size(mask, like)
        room = self.workspace.room(name, tuple(like.shape), like)
        return room.copy_(mask[:, 0])

    def _logits(self, features: Tensor) -> Tensor:
        """Logits [B, classes] of the last map [B, C, h, w], in memory that the next call overwrites."""
        x = features.permute(0, 2, 3, 1)
        for i, step in enumerate(self.head):
            x = step(x, self.workspace, f"head {i}")
        return x.flatten(1)

    def inputs(self, x: Tensor, request: Request) -> list[tuple[BlockStep, Tensor]]:
        """Each block and a copy of what it gets for images x [B, 3, H, W]."""
        seen: list[tuple[BlockStep, Tensor]] = []
        self(x, request, None, False, lambda step, features: seen.append((step, features.clone())))
        return seen

    def set_break_even(self, densities: Sequence[float]) -> None:
        """Let each block run masked above its density."""
        self.ways = tuple(density if density < 1 else None for density in densities)
        for step, density in zip(self.blocks(), self.ways, strict=True):
            step.break_even = density

    def blocks(self) -> list[BlockStep]:
        """The adaptive blocks, in order."""
        return [s for s in self.steps if isinstance(s, BlockStep)]

    def masked_because(self) -> set[str]:
        """What blocks have that the kernels do not know."""
        return {why_masked(s.block) for s in self.blocks() if s.plan is None}

    def _following(self, index: int, products: Tensor | None, output: Tensor) -> Following | None:
        """What the block at a step keeps up to date: the products by which the block right behind it decides.

        Args:
            products: of the block's input.
            output: [B, h, w, C'], where the block's output goes.
        """
        after = self.steps[index + 1] if index + 1 < len(self.steps) else None
        if not isinstance(after, BlockStep) or isinstance(after.scorer, Alone):
            return None
        board, slot = after.scorer.board, after.scorer.slot
        return Following(board, products if self.steps[index].in_place else board.room(output, self.workspace), slot.stop)


def _score_together(steps: list[Step | BlockStep], budget: str, width: int) -> None:
    """Let the mask units of blocks that follow each other on one map read it together."""
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
        for step, scorer in zip(group, scorers([step.block.mask_units[budget] for step in group], width)):
            step.scorer = scorer


def _check_size(given: Tensor, mask: Tensor) -> None:
    expected = [len(mask), 1, *mask.shape[1:]]
    if list(given.shape) != expected:
        raise ValueError(f"a given mask is {list(given.shape)} and the block decides {expected}")


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
