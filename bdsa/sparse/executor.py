"""Run a whole network sparsely at a budget: dense steps and blocks, packed at first use and kept."""
from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.method.exact import ExactBudget
from bdsa.method.norms import Blend
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import BlockUsage
from bdsa.sparse import operators
from bdsa.sparse.block_step import BlockStep, score_together
from bdsa.sparse.dense import Convolution, Step, dense_steps, head_steps, padded
from bdsa.sparse.given import check_given, take
from bdsa.sparse.inference import Inference, NotFinite
from bdsa.sparse.packing import Form
from bdsa.sparse.planning import why_masked
from bdsa.sparse.quantised import plan_in
from bdsa.sparse.recording import recorded
from bdsa.sparse.scores import Following, Member, scorers
from bdsa.sparse.workspace import Workspace


class Chosen(threading.local):
    """Which ways the blocks go in one thread; others may have images of other sizes, or be measuring.

    Attributes:
        ways: the blocks' break-even densities; none: all of them run sparsely.
        conditions: that they were chosen for.
    """
    ways: tuple[float | None, ...] = ()
    conditions: Any = None


@dataclass
class Executor:
    """A network at one budget, in evaluation mode.

    Attributes:
        steps: dense steps and blocks, from the image to the last map.
        head: steps from the last map to logits [B, 1, 1, classes]; None where only the network knows how.
        border: zeros around the image that the first step wants.
        channels: of an image, where that is known.
        workspace: the maps' memory, and the recordings of inferences.
        dtype: of the maps and packed weights: float32 or bfloat16.
        int8: whether its blocks multiply bytes, where they can.
        chosen: the ways that its blocks go.
        played: whether the last call was a recording's, in which no block runs masked.
        marks: the steps whose maps are wanted, some twice; none where logits are.
        whole: whether it has all of the network's blocks.
    """
    steps: list[Step | BlockStep]
    head: list[Step] | None = None
    border: int = 0
    channels: int | None = None
    dtype: torch.dtype = torch.float32
    int8: bool = False
    workspace: Workspace = field(default_factory=Workspace)
    chosen: Chosen = field(default_factory=Chosen)
    played: bool = False
    marks: tuple[int, ...] = ()
    whole: bool = True
    device_type = "cpu"  # what it is for

    @classmethod
    def of(cls, network: nn.Module, budget: str, form: Form, ends: tuple[int, ...] = (),
           blend: Blend | None = None) -> Executor:
        """Fold and pack a network for a budget, by name, in a form that this machine has (`native.form`).

        Args:
            ends: places in its trunk whose maps are wanted: it goes up to the last of them.
            blend: norms in place of the budget's own.
        """
        steps: list[Step | BlockStep] = []
        waiting: list[nn.Module] = []
        marks: list[int] = []
        trunk, norms = network.trunk(), blend or budget
        for place, module in enumerate(trunk[:ends[-1] + 1] if ends else trunk):
            if isinstance(module, AdaptiveBlock):
                plan = plan_in(module, norms, form)
                steps += [*dense_steps(waiting, form), BlockStep(module, budget, plan, norms)]
                waiting = []
            else:
                waiting.append(module)
            if place in ends:
                steps, waiting = [*steps, *dense_steps(waiting, form)], []
                marks.append(len(steps) - 1)
        steps += dense_steps(waiting, form)
        score_together(steps, budget, lambda units: scorers(units, form))
        border, channels = 0, None
        if isinstance(steps[0], Convolution):
            border, steps[0].padding = steps[0].padding, 0
            channels = steps[0].channels
        made = cls(steps, None if ends else head_steps(network, form), border, channels, form.dtype,
                   form.ranges is not None, marks=tuple(marks))
        made.whole = len(made.blocks()) == len(network.adaptive_blocks())
        return made

    @property
    def products(self) -> torch.dtype:
        """What the blocks multiply, where they can: the type of the maps, or int8."""
        return torch.int8 if self.int8 else self.dtype

    @property
    def ways(self) -> tuple[float | None, ...]:
        """The blocks' break-even densities, in this thread."""
        return self.chosen.ways or (None,) * len(self.blocks())

    @property
    def rows(self) -> list[Tensor | None]:
        """Of the last call, for each block: the rows computed at D(m) and at m, int64 [2]; None where it ran masked."""
        return [None if step.ran_masked and not self.played else step.rows for step in self.blocks()]

    def classify(self, x: Tensor, given: Sequence[Tensor] | None, count: bool, head: Callable[[Tensor], Tensor],
                 offset: float = 0.0, exact: ExactBudget | None = None) -> tuple[Tensor, list[BlockUsage]]:
        """Logits [B, classes] and the blocks' usage, as `__call__`.

        An inference whose usage is not asked for is recorded when an image of its size comes first, then played, at
        any offset and any exact budget.

        Args:
            head: the network's own, from the last map [B, C, h, w].
        """
        if count or torch.autograd._profiler_enabled() or self.head is None:
            features, used = self(x, given, count, offset=offset, exact=exact)
            if self.head is None:  # a copy, because a head may hand on what it is given
                return head(features.to(x.dtype, copy=True)), used
            return self._logits(features).clone(), used
        expected = None if exact is None or given is not None else exact.expected
        key = (x.shape, x.device, given is None, torch.get_num_threads(), self.ways, expected)
        if (kept := self.workspace.recordings.find(key)) is not None:
            self.played = True
            return kept.play(x, given, self.offsets(offset), exact), []
        with recorded() as recording:
            features, used, masks = self.run(self.take_in(x), given, False, None, offset=offset, exact=exact)
            logits = self._logits(features)
        if recording.complete:
            recording.close(x, [*masks, logits])
            self.workspace.recordings.keep(key, Inference(recording, masks, logits))
        return logits.clone(), used

    def __call__(self, x: Tensor, given: Sequence[Tensor] | None, count: bool,
                 on_input: Callable[[BlockStep, Tensor], None] | None = None, offset: float = 0.0,
                 exact: ExactBudget | None = None) -> tuple[Tensor, list[BlockUsage]]:
        """Compute the last feature map.

        Args:
            x: [B, 3, H, W], left as it is.
            given: masks in place of the units' decisions, bool [B, 1, h, w] a block.
            count: whether to count what was used.
            on_input: called with each block and its input [B, H, W, C].
            offset: added to the units' logits.
            exact: decides in place of their threshold, where no masks are given.

        Returns:
            [B, C, h, w] in channels-last memory that the next call overwrites, and the blocks' usage, empty
            unless `count`.
        """
        return self.run(self.take_in(x), given, count, on_input, None, offset, exact)[:2]

    def take_in(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] as the first step wants them, [B, H', W', 3].

        Raises:
            ValueError: for images of other channels than the network's.
            NotFinite: see there.
        """
        if self.channels is not None and x.shape[1] != self.channels:
            raise ValueError(f"images of shape {list(x.shape)}, and the network reads {self.channels} channels")
        size = [side + 2 * self.border for side in x.shape[2:]]
        out = self.workspace.room("image", (len(x), *size, x.shape[1]), x, self.dtype)
        infinite = self.workspace.room("infinite", (1,), x, torch.int32)
        met = infinite.numpy()  # the same memory, in which no operator needs to look
        met[0] = 0
        operators.take_in(out, x.permute(0, 2, 3, 1), self.border, infinite)
        if met[0]:
            raise NotFinite
        return out

    def run(self, x: Tensor, given: Sequence[Tensor] | None, count: bool,
            on_input: Callable[[BlockStep, Tensor], None] | None, found: list[Tensor] | None = None,
            offset: float = 0.0, exact: ExactBudget | None = None
            ) -> tuple[Tensor, list[BlockUsage], list[Tensor]]:
        """`__call__` from the image with its border, [B, H, W, 3]; also the rooms of given masks, bool [B, 1, h, w].

        Args:
            found: takes copies of the maps at `marks`, [B, h, w, C], in rooms of their own.
        """
        if given is not None:
            check_given(given, self.blocks())
        self.played = False
        masks, used, products, rooms, ways = iter(given or ()), [], None, [], iter(self.ways)
        fresh = False  # whether the products are those of x
        for i, step in enumerate(self.steps):
            if i - 1 in self.marks and found is not None:  # a next step may work in place
                found += [padded(x, 0, self.workspace, f"kept {i - 1}")] * self.marks.count(i - 1)
            if not isinstance(step, BlockStep):
                x, fresh = step(x, self.workspace, f"map {i}"), False
                continue
            if x.shape[3] != step.channels:
                raise ValueError(f"a block reads {step.channels} channels, and the map before it has {x.shape[3]}")
            if on_input is not None:
                on_input(step, x)
            products, scored, mask = step.scores(x, products if fresh else None, self.workspace, f"step {i}", offset)
            if exact is not None and given is None:
                step.decide(x, scored, mask, exact, self.workspace.room("purses", (len(x),), x, torch.float64))
            if given is not None:
                rooms.append(self._given(next(masks), mask, f"step {i} given"))
                mask = rooms[-1][:, 0]
            if count:
                used.append(step.usage(x, scored.clone(), mask.clone(), given is not None or exact is not None))
            step.ran_masked = step.goes_masked(mask, next(ways))
            if step.ran_masked:
                x, fresh = step.run_masked(x, mask), False
                continue
            identity = step.identity(x, mask, self.workspace, f"map {i}")
            following = self._following(i, products, identity)
            step.run_sparse(x, mask, identity, following)
            x, products, fresh = identity, following and following.products, following is not None
        if len(self.steps) - 1 in self.marks and found is not None:
            found += [padded(x, 0, self.workspace, "kept last")] * self.marks.count(len(self.steps) - 1)
        return x.permute(0, 3, 1, 2), used, rooms

    def _given(self, mask: Tensor, like: Tensor, name: str) -> Tensor:
        """A given mask in the room of that name, bool [B, 1, h, w]. like: [B, h, w]."""
        return take(mask, self.workspace.room(name, (len(like), 1, *like.shape[1:]), like))

    def _logits(self, features: Tensor) -> Tensor:
        """Logits [B, classes] of the last map [B, C, h, w], in memory that the next call overwrites."""
        x = features.permute(0, 2, 3, 1)
        for i, step in enumerate(self.head):
            x = step(x, self.workspace, f"head {i}")
        return x.flatten(1)

    def inputs(self, x: Tensor) -> list[tuple[BlockStep, Tensor]]:
        """Each block and a copy of what it gets for images x [B, 3, H, W]."""
        seen: list[tuple[BlockStep, Tensor]] = []
        self(x, None, False, lambda step, features: seen.append((step, features.clone())))
        return seen

    def offsets(self, offset: float) -> list[float]:
        """What each unit adds to its sums of products where all logits are moved by an offset."""
        return [step.scorer.offset + offset for step in self.blocks() if step.scorer is not None]

    def set_break_even(self, densities: Sequence[float]) -> None:
        """Let each block run masked above its density, in this thread."""
        if len(densities) != len(self.blocks()):
            raise ValueError(f"{len(densities)} densities for {len(self.blocks())} blocks")
        self.chosen.ways = tuple(density if density < 1 else None for density in densities)

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
        if not isinstance(after, BlockStep) or not isinstance(after.scorer, Member):
            return None
        board, slot = after.scorer.board, after.scorer.slot
        kept = products if self.steps[index].in_place else board.room(output, self.workspace)
        return Following(board, kept, slot.stop)
