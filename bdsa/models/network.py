"""The adaptive network: the budget is an input of the forward pass."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn
from torch.compiler import is_compiling, is_exporting
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from bdsa.budgets import DENSE
from bdsa.config.names import CONSTANT, EXECUTIONS, PRECISIONS
from bdsa.errors import UserError, unknown
from bdsa.method.curves import Point
from bdsa.models.any_budget import AnyBudget, Asking
from bdsa.models.asking import asked_around, asking, one_look_asked
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.cascades import check_cascade, is_mean, look_twice
from bdsa.models.features import FeatureMethods, sparse_execution
from bdsa.models.one_node import call, one_node
from bdsa.models.purses import Purses
from bdsa.models.usage import BlockUsage, Request, Usage


class AdaptiveNetwork(FeatureMethods, AnyBudget):
    """What every adaptive network adds to its timm class: a forward pass with a budget."""

    feature_info: list[dict[str, Any]]  # timm's: channels and reduction of each stage
    made_with: dict[str, Any] | None = None  # name and arguments of `create_model`
    norm_affine, mask_norm, submanifold = "separate", "none", False
    _execution = "masked"
    _precision = "float32"
    _watched: bool | str = True

    @property
    def watch_weights(self) -> bool | str:
        """How changes of weights are noticed in sparse execution: True, False or "never"; see `execution`."""
        return self._watched

    @watch_weights.setter
    def watch_weights(self, value: bool | str) -> None:
        if value != self._watched:
            sparse_execution().distrust(self)
        self._watched = value

    @property
    def execution(self) -> str:
        """How the network runs in evaluation mode without gradients.

        "masked" computes densely and multiplies by the masks, which is what training does; "sparse" computes
        the active positions alone, with the same results to rounding; "auto" lets each block go the faster way
        (`bdsa.sparse.auto`). The dense network, budget 1, is timm's own in the first, bit for bit, and runs through
        the same kernels in the others.

        Sparse execution computes with copies of the weights. Before every inference it is seen whether the network is
        still what they were made from: its modules, parameters and buffers, and all that these hold, which is read
        at the speed of memory. So weights may change in any way: by an optimiser (fused ones too), by
        `load_state_dict`, by writes through `.data` or numpy, by averaged weights that are swapped in, by other
        layers, by `torch.func.functional_call`. Where `watch_weights` is False, contents are not read. Then
        operations on a tensor are still seen, and whatever replaces a tensor or a module; what goes around these
        (`.data.copy_()`, fused optimisers, numpy) must be announced by `weights_changed()`. "never" takes the network
        for constant, as engines do that compile one: it is looked at once, at its first use and after `train()` or
        another execution was set. All else is to be announced, new hooks too. What is no tensor, a stride or an eps
        that is set by hand, must always be.

        In torch.compile, without gradients, and in torch.export the network is one node (`bdsa.models.one_node`).
        Masked execution runs instead where others want to see or change what happens: dispatch and function modes
        (FlopCounterMode), torch.jit.trace, torch.func, hooks on a module within or on all modules, pruning,
        parametrisations, a module in training mode. It also runs where a weight or an image is infinite or not a
        number, so that this shows in the logits. A profiler sees the sparse operators one by one.
        """
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        if value not in EXECUTIONS:
            raise unknown("execution", value, EXECUTIONS)
        if value != self._execution:  # who computed otherwise may have changed weights
            weights_moved(self)
        self._execution = value

    @property
    def precision(self) -> str:
        """The type in which the network computes in evaluation mode without gradients, on a CPU.

        "float32"; "bfloat16": maps and weights are rounded to bfloat16 and sums are float32, for sparse, automatic
        and masked execution alike, at the speed of AMX or AVX512-BF16 where the processor has them; "auto": bfloat16
        where that is faster, and where the logits for the first images stay within 2 % of their spread, else float32.
        The network's own weights stay float32, and so do training and what needs gradients. Mask units decide from
        float32 sums of the rounded map: positions whose logit is nearly zero may be decided otherwise.

        "int8": blocks multiply bytes, at the speed of AMX or AVX512-VNNI, with ranges that `bdsa.quantize` has
        measured; maps between blocks, and what has no int8 form (grouped convolutions, ConvNeXt v2, masked execution,
        GPUs), are as in "bfloat16". "auto" never takes it.
        """
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        if value not in PRECISIONS:
            raise unknown("precision", value, PRECISIONS)
        if value == "int8" and not self.ranges:
            raise UserError("precision='int8' needs the ranges of what layers read: call bdsa.quantize(network, "
                            "training_images) before")
        self._precision = value

    def train(self, mode: bool = True) -> AdaptiveNetwork:
        """nn.Module's; of weights that are taken for constant all is made anew after a training."""
        if self._watched == CONSTANT and (mode or self.training):
            self.weights_changed()
        return super().train(mode)

    def weights_changed(self) -> None:
        """Say that weights have changed in a way that is not seen; needed only as `execution` describes."""
        sparse_execution().forget(self)

    def trunk(self) -> list[nn.Module]:
        """The modules between the image and the head, in order; adaptive blocks one by one."""
        raise NotImplementedError

    def adaptive_blocks(self) -> list[AdaptiveBlock]:
        """The blocks that own mask units, in the order of `Usage.masks`."""
        return [m for m in self.trunk() if isinstance(m, AdaptiveBlock)]

    @contextmanager
    def at_budget(self, budget: float, extrapolate: bool | None = None, per_image: bool | None = None
                  ) -> Iterator[None]:
        """Within it, what is called without a budget runs at this one, in this thread.

        That is the network itself, its `forward_features` and `forward_intermediates`, and whatever calls its blocks or
        stages: timm's and torchvision's feature extractors, or a loop by hand. 1 is the dense network.
        `extrapolate` and `per_image` are as in `forward`.

        Raises:
            UserError: for a budget that cannot be met (see `forward`), and in training with gradient checkpointing,
                whose second forward pass comes after it has ended. With `per_image`, in training mode, and where blocks
                are called in another order than the network's.
        """
        point = self.point(budget, extrapolate)
        if self.training and getattr(self, "grad_checkpointing", False):
            raise UserError("gradient checkpointing cannot repeat what at_budget asks for: call "
                            "network(x, budget=...), or set_grad_checkpointing(False)")
        request = None if point.name is None else Request(point.name, offset=point.offset, blend=point.blend)
        purses = Purses(self, point) if self.decides_exactly(point, per_image) else None
        with asking(self, self.adaptive_blocks(), point, request, purses=purses):
            yield

    def forward(self, x: Tensor, budget: Asking | None = None, return_usage: bool = False, *,
                per_image: bool | None = None, extrapolate: bool | None = None, latency_ms: float | None = None,
                cascade: bool | None = None,
                temperature: float = 1.0, noise: bool = False, differentiable_dilation: bool = True,
                published_cost: bool = False, shard: tuple[int, int] = (0, 1),
                masks: Sequence[Tensor] | None = None) -> Tensor | tuple[Tensor, Usage]:
        """Classify images at a budget.

        Args:
            x: [B, 3, H, W], normalised images.
            budget: one of the trained budgets, or 1.0 for the dense network (timm's own output), or, with `curves`,
                any between; a sequence or tensor [B] of them: each image's own. None: that of `at_budget` around the
                call, or the dense network.
            return_usage: also return what was used.
            per_image: the budget is what no image may exceed, not a mean over images (`bdsa.method.exact`); in
                evaluation mode. None: as the network's attribute says, False unless it was set.
            extrapolate: allow budgets below the smallest trained one, where accuracy falls off; None: likewise.
            latency_ms: a deadline in place of a budget: the largest one that `bdsa.plan` found to meet it.
            cascade: meet the budget, as a mean over images, by a first look at all of them and a second one at those
                whose first answer is unsure (`bdsa.models.cascades`); in evaluation mode. None: likewise.
            temperature: tau of the masks' gradient while training.
            noise: whether Gumbel noise is added to the mask logits (training).
            differentiable_dilation: whether the cost at D(m) carries a gradient to the masks.
            published_cost: whether the fractions for the budget losses are those of the authors' count.
            shard: (rank, world) where several processes share the batch in equal parts: for the noise.
            masks: decide instead of the mask units, which still run: a bool [B, 1, h, w] a block, at its
                output resolution. For measurements at a chosen density.

        Returns:
            Logits [B, classes], or (logits, Usage).

        Raises:
            UserError: for a budget that this network was not trained for and has no curves for, one below the smallest,
                a deadline without a plan, or without one for this `per_image`, or one that cannot be met.
            ValueError: for masks that are not one a block.
        """
        if isinstance(budget, fx.Proxy):
            raise UserError("torch.fx cannot trace a network whose budget is an argument: use forward_intermediates(x, "
                            "budget=0.5), or an extractor of modules within network.at_budget(0.5)")
        twice = self.cascade if cascade is None else cascade
        if twice and budget is None and one_look_asked(self):
            raise UserError("a cascade takes its budget from the call, and at_budget gives one look: "
                            "network(x, budget=0.5, cascade=True), or cascade=False")
        if twice and is_mean(budget, latency_ms):
            check_cascade(self, budget, {"per_image": self.per_image if per_image is None else per_image,
                                         "latency_ms": latency_ms, "masks": masks})
            if is_exporting():
                if return_usage:
                    raise UserError("an exported cascade gives logits alone: leave out return_usage")
                return call(self, x, budget, False, extrapolate, cascade=True)
            return look_twice(self, x, budget, return_usage, extrapolate)
        if is_compiling() and masks is None and not return_usage and latency_ms is None and one_node(self, budget):
            return call(self, x, budget, per_image, extrapolate)
        if latency_ms is not None:
            budget, per_image = self.planned(latency_ms, x, budget, per_image)
        if self.several(budget):
            more = {"per_image": per_image, "extrapolate": extrapolate, "temperature": temperature, "noise": noise,
                    "differentiable_dilation": differentiable_dilation, "published_cost": published_cost,
                    "cascade": False}
            return self.each(x, budget, return_usage, masks, more)
        if budget is None:
            around = asked_around(self)
            if around is not None and around.calls is not None:
                return around.counted(self.forward, x, return_usage, masks)
            budget = DENSE if around is None else around.point
            per_image = around.exactly(per_image) if around is not None else per_image
        point = self.point(budget, extrapolate)
        dense = point.name is None
        plain = dense and not return_usage
        as_trained = self._execution == "masked" and self._precision == "float32" or \
            (point.blend is not None and point.blend.whole)
        if plain and as_trained:
            return self._dense(x)
        size = tuple(x.shape[2:])
        request = Request(point.name, temperature, noise, differentiable_dilation, published_cost, shard, point.offset,
                          point.blend, self.exact(point, size, per_image))
        if (plain or not dense) and not as_trained and not is_compiling():
            ran = sparse_execution().run_sparse(self, x, point, None if plain else masks, return_usage,
                                                exact=request.exact)
            if ran is not None:
                return (ran[0], Usage.gather(ran[1], self.dense_macs(size))) if return_usage else ran[0]
        if plain:
            return self._dense(x)
        given = itertools.repeat(None) if masks is None else self.one_a_block(masks)
        used: list[BlockUsage] = []
        checkpoints = getattr(self, "grad_checkpointing", False) and self.training
        if not is_compiling() and not checkpoints and self._has_listeners():
            with asking(self, self.adaptive_blocks(), point, request, given, used):
                logits = super().forward(x)
            return (logits, Usage.gather(used, self.dense_macs(size))) if return_usage else logits
        for module in self.trunk():
            if not isinstance(module, AdaptiveBlock):
                x = module(x)
                continue
            if checkpoints and x.requires_grad:
                x, usage = checkpoint(module.run, x, request, next(given), use_reentrant=False)
            else:
                x, usage = module.run(x, request, next(given))
            used.append(usage)
        logits = self.forward_head(x)
        return (logits, Usage.gather(used, self.dense_macs(size))) if return_usage else logits

    def _dense(self, x: Tensor) -> Tensor:
        """timm's own forward pass."""
        if is_compiling():
            return super().forward(x)
        with asking(self, self.adaptive_blocks(), Point(None), None):
            return super().forward(x)

    def _has_listeners(self) -> bool:
        """Whether there are hooks on blocks or on what holds them, which only a call of these as modules reaches."""
        if _has_any_global_hook():
            return True
        trunk = {id(module) for module in self.trunk()}
        blocks: list[nn.Module] = list(self.adaptive_blocks())
        waiting = [m for m in self.children() if id(m) not in trunk]
        while waiting:
            blocks.append(holder := waiting.pop())
            waiting += [m for m in holder.children() if id(m) not in trunk]
        return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
                   for m in blocks)

    def one_a_block(self, masks: Sequence[Tensor]) -> Iterator[Tensor]:
        """Iterate over given masks, if they are as many as the adaptive blocks."""
        if len(masks) != len(self.adaptive_blocks()):
            raise ValueError(f"{len(masks)} masks for {len(self.adaptive_blocks())} adaptive blocks")
        return iter(masks)


def weights_moved(network: AdaptiveNetwork) -> None:
    """Have weights that are taken for constant looked at once more."""
    if network.watch_weights == CONSTANT:
        sparse_execution().distrust(network)
