"""Run a whole network sparsely at a budget on a GPU."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bdsa.method.exact import ExactBudget
from bdsa.method.norms import Blend
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import BlockUsage
from bdsa.sparse.auto import batch_class
from bdsa.sparse.block_step import BlockStep, score_together
from bdsa.sparse.dense import dense_steps, head_steps
from bdsa.sparse.executor import Executor, check_given
from bdsa.sparse.gpu.board import scorers
from bdsa.sparse.gpu.dense import on_gpu
from bdsa.sparse.gpu.device import current, maps_dtype
from bdsa.sparse.gpu.graphs import Graphs
from bdsa.sparse.gpu.steps import GpuBlockStep
from bdsa.sparse.gpu.tiles import precision
from bdsa.sparse.packing import Form


class GpuExecutor(Executor):
    """A network at one budget, in evaluation mode, for maps of one type.

    Attributes:
        dtype: of maps and folded weights: bfloat16, float16 or float32.
        weights: of the network's own.
        graphs: of inferences, by their shapes.
    """
    weights: torch.dtype
    graphs: Graphs
    device_type = "cuda"

    @classmethod
    def for_maps(cls, network: nn.Module, budget: str, dtype: torch.dtype, blend: Blend | None = None) -> GpuExecutor:
        """Fold a network's norms for a budget, by name, or a blend, and lay its weights out for maps of a type."""
        steps, waiting = [], []
        for module in network.trunk():
            if isinstance(module, AdaptiveBlock):
                steps += [*(on_gpu(step, dtype) for step in dense_steps(waiting, Form())),
                          GpuBlockStep(module, budget, dtype, blend or budget)]
                waiting = []
            else:
                waiting.append(module)
        rest, head = dense_steps(waiting, Form()), head_steps(network, Form())
        steps += [on_gpu(step, dtype) for step in rest]
        score_together(steps, budget, lambda units: scorers(units, dtype))
        first = network.trunk()[0]
        made = cls(steps, None if head is None else [on_gpu(step, dtype) for step in head], dtype=dtype,
                   channels=first.in_channels if isinstance(first, nn.Conv2d) else None)
        made.weights, made.graphs = next(network.parameters()).dtype, Graphs()
        return made

    def classify(self, x: Tensor, given: Sequence[Tensor] | None, count: bool, head: Callable[[Tensor], Tensor],
                 offset: float = 0.0, exact: ExactBudget | None = None) -> tuple[Tensor, list[BlockUsage]]:
        """See `Executor.classify`; an inference is captured as a CUDA graph."""
        answers = maps_dtype(x)  # of the logits
        with self.alone(x):
            masks = [] if given is None else [  # of their own: kernels are compiled for where memory begins
                mask.to(x.device, torch.bool, copy=True, memory_format=torch.contiguous_format) for mask in given]
            work = self.work(head, given is not None, answers, offset)
            if count or torch.autograd._profiler_enabled():
                features, used = self(x, None if given is None else masks, count, offset=offset)
                return self._answer(x, features, head, answers), used
            if not x.is_cuda or torch.cuda.is_current_stream_capturing():  # then the inference joins the caller's graph
                return work(x, masks), []
            check_given(masks, self.blocks() if given is not None else [])
            key = (x.shape, x.stride(), x.dtype, x.device, torch.cuda.current_stream(x.device).cuda_stream,
                   tuple(mask.shape for mask in masks), self.ways, answers, precision(torch.float32), offset)
            return self.graphs.run(key, work, x, masks), []

    def work(self, head: Callable[[Tensor], Tensor], given: bool, answers: torch.dtype, offset: float = 0.0
             ) -> Callable[[Tensor, list[Tensor]], Tensor]:
        """An inference as a function of an image and given masks, none if it is not `given`: what a graph captures."""
        def infer(image: Tensor, masks: list[Tensor]) -> Tensor:
            features, _ = self(image, masks if given else None, False, offset=offset)
            return self._answer(image, features, head, answers)
        return infer

    def case(self, x: Tensor, given: Sequence[Tensor] | None) -> str:
        """What `auto` chooses for at once: a class of batches, at a budget, in a type."""
        name = f"{batch_class(x)} at {self.blocks()[0].budget} in {str(self.dtype).removeprefix('torch.')}"
        return name if given is None else f"{name}, masks given"

    def inputs_and_masks(self, x: Tensor, given: Sequence[Tensor] | None) -> list[tuple[GpuBlockStep, Tensor, Tensor]]:
        """Each block, a copy of what it gets for images x [B, 3, H, W], and its mask there, bool [B, h, w]."""
        seen: list[tuple[GpuBlockStep, Tensor]] = []
        self(x, given, False, lambda step, features: seen.append((step, features.clone())))
        masks = [step.here.decided.mask for step, _ in seen] if given is None else [
            mask[:, 0].to(x.device, torch.bool) for mask in given]
        return [(step, features, mask) for (step, features), mask in zip(seen, masks, strict=True)]

    @contextmanager
    def alone(self, x: Tensor) -> Iterator[None]:
        """Within it the device of x is the current one, and autocast leaves types as they are."""
        with current(x.device), torch.autocast(x.device.type, enabled=False):
            yield

    def _answer(self, x: Tensor, features: Tensor, head: Callable[[Tensor], Tensor], answers: torch.dtype) -> Tensor:
        """Logits [B, classes] of a type, of the last map of images x.

        What is infinite or not a number in these shows, as in masked execution, which carries it to every position.
        """
        logits = (head(features.to(self.weights)) if self.head is None else self._logits(features)).to(answers)
        return logits + (x.sum(dim=(1, 2, 3), dtype=torch.float32) * 0).to(logits.dtype)[:, None]

    def take_in(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] as maps [B, H, W, 3]."""
        if self.channels is not None and x.shape[1] != self.channels:
            raise ValueError(f"images of shape {list(x.shape)}, and the network reads {self.channels} channels")
        return x.permute(0, 2, 3, 1).to(self.dtype, memory_format=torch.contiguous_format).contiguous()

    def run(self, x: Tensor, given: Sequence[Tensor] | None, count: bool,
            on_input: Callable[[BlockStep, Tensor], None] | None, found: list[Tensor] | None = None,
            offset: float = 0.0, exact: ExactBudget | None = None
            ) -> tuple[Tensor, list[BlockUsage], list[Tensor]]:
        assert exact is None, "exact budgets run masked on a GPU"
        blocks = self.blocks()
        counts = torch.zeros(len(blocks), 4, dtype=torch.int32, device=x.device)
        for step, row, way in zip(blocks, counts, self.ways, strict=True):
            step.begin(row, way)
        return super().run(x, given, count, on_input, found, offset)

    def _given(self, mask: Tensor, like: Tensor, name: str) -> Tensor:
        """A given mask as the kernels read it, bool [B, 1, h, w]."""
        if mask.shape != (len(like), 1, *like.shape[1:]):
            raise ValueError(f"a given mask is {list(mask.shape)} and the block decides "
                             f"{[len(like), 1, *like.shape[1:]]}")
        return mask.to(like.device, torch.bool).contiguous()
