"""The adaptive network: the budget is an input of the forward pass."""
from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdsa.budgets import DENSE, Budgets
from bdsa.config.names import EXECUTIONS
from bdsa.errors import unknown
from bdsa.method.macs import count_dense_macs
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.cifar_resnet import CifarResNet
from bdsa.models.usage import BlockUsage, Request, Usage


class AdaptiveNetwork(nn.Module):
    """What every adaptive network adds to its timm class: a forward pass with a budget."""

    budgets: Budgets
    feature_info: list[dict[str, Any]]  # timm's: channels and reduction of each stage
    _execution = "masked"

    @property
    def execution(self) -> str:
        """How the network runs in evaluation mode without gradients.

        "masked" computes densely and multiplies by the masks, which is what training does; "sparse" computes
        the active positions alone, with the same results to rounding; "auto" lets each block go the faster way
        (`bdsa.sparse.auto`). The dense network, budget 1, is timm's own in the first, bit for bit, and runs through
        the same kernels in the others. Weights may change at any time: what was made from them is made anew. Forward
        hooks on modules are called in masked execution alone.
        """
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        if value not in EXECUTIONS:
            raise unknown("execution", value, EXECUTIONS)
        self._execution = value

    def set_budgets(self, budgets: Budgets) -> None:
        """Remember which budgets the blocks were given (called by `adapt`)."""
        self.budgets = budgets
        self._dense_macs: dict[tuple[int, int], int] = {}

    def trunk(self) -> list[nn.Module]:
        """The modules between the image and the head, in order; adaptive blocks one by one."""
        raise NotImplementedError

    def adaptive_blocks(self) -> list[AdaptiveBlock]:
        """The blocks that own mask units, in the order of `Usage.masks`."""
        return [m for m in self.trunk() if isinstance(m, AdaptiveBlock)]

    def forward(self, x: Tensor, budget: float = DENSE, return_usage: bool = False, *, temperature: float = 1.0,
                noise: bool = False, differentiable_dilation: bool = True,
                published_cost: bool = False, shard: tuple[int, int] = (0, 1),
                masks: Sequence[Tensor] | None = None) -> Tensor | tuple[Tensor, Usage]:
        """Classify images at a budget.

        Args:
            x: [B, 3, H, W], normalised images.
            budget: one of the trained budgets, or 1.0 for the dense network (timm's own output).
            return_usage: also return what was used.
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
            UserError: for a budget that this network was not trained for.
            ValueError: for masks that are not one a block.
        """
        asked = self.budgets.require(budget)
        plain = asked.is_dense and not return_usage
        if plain and self._execution == "masked":
            return super().forward(x)
        request = Request(None if asked.is_dense else asked.name, temperature, noise, differentiable_dilation,
                          published_cost, shard)
        size = tuple(x.shape[2:])
        if ((plain or not asked.is_dense) and self._execution != "masked"
                and (ran := _sparse_runner()(self, x, asked.name, None if plain else masks, return_usage)) is not None):
            return (ran[0], Usage.gather(ran[1], self.dense_macs(size))) if return_usage else ran[0]
        if plain:
            return super().forward(x)
        given = itertools.repeat(None) if masks is None else self.one_a_block(masks)
        used: list[BlockUsage] = []
        for module in self.trunk():
            if not isinstance(module, AdaptiveBlock):
                x = module(x)
                continue
            if getattr(self, "grad_checkpointing", False) and self.training and x.requires_grad:
                x, usage = checkpoint(module.run, x, request, next(given), use_reentrant=False)
            else:
                x, usage = module.run(x, request, next(given))
            used.append(usage)
        logits = self.forward_head(x)
        return (logits, Usage.gather(used, self.dense_macs(size))) if return_usage else logits

    def one_a_block(self, masks: Sequence[Tensor]) -> Iterator[Tensor]:
        """Iterate over given masks, if they are as many as the adaptive blocks."""
        if len(masks) != len(self.adaptive_blocks()):
            raise ValueError(f"{len(masks)} masks for {len(self.adaptive_blocks())} adaptive blocks")
        return iter(masks)

    def dense_macs(self, size: tuple[int, int]) -> int:
        """MACs of the dense network for one image of (height, width), counted once per size."""
        if size not in self._dense_macs:
            first = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
            self._dense_macs[size] = count_dense_macs(self, size, first.in_channels)
        return self._dense_macs[size]


@functools.cache
def _sparse_runner() -> Callable[..., tuple[Tensor, list[BlockUsage]] | None]:
    """`run_sparse`, found by its name: sparse execution is made of the blocks here, which know nothing of it."""
    return importlib.import_module("bdsa.sparse.execution").run_sparse


class AdaptiveResNet(AdaptiveNetwork, ResNet):
    """timm's ResNet with a budget."""

    def trunk(self) -> list[nn.Module]:
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [self.conv1, self.bn1, self.act1, self.maxpool, *(block for stage in stages for block in stage)]


class AdaptiveCifarResNet(AdaptiveNetwork, CifarResNet):
    """The CIFAR ResNet with a budget."""

    def trunk(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.act1, *self.layer1, *self.layer2, *self.layer3]


class AdaptiveConvNeXt(AdaptiveNetwork, ConvNeXt):
    """timm's ConvNeXt with a budget."""

    def trunk(self) -> list[nn.Module]:
        stages = (m for stage in self.stages for m in (stage.downsample, *stage.blocks))
        return [self.stem, *stages, self.norm_pre]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        super().set_grad_checkpointing(enable)
        self.grad_checkpointing = enable
