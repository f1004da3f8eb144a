"""A network that gives feature maps at a budget in place of logits: a backbone of detectors and segmenters."""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.models._features import FeatureInfo, feature_take_indices
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting

from bdsa.budgets import DENSE, Budgets
from bdsa.errors import UserError
from bdsa.method.curves import Point
from bdsa.method.macs import count_dense_macs
from bdsa.models.any_budget import latest
from bdsa.models.asking import asked_around, asking
from bdsa.models.features import sparse_execution, stage_ends, trunk_maps
from bdsa.models.usage import BlockUsage, Request, Usage

TRAINING = ("temperature", "noise", "differentiable_dilation", "published_cost", "shard")  # what `forward` hands on


class FeatureNetwork(nn.Module):
    """An adaptive network that gives feature maps: a backbone of detectors and segmenters.

        backbone = bdsa.create_model("resnet50", budgets=[0.3, 0.5], features_only=True, out_indices=(1, 2, 3, 4))
        maps = backbone(images, budget=0.3)            # a list of [B, C, h, w]

    Args:
        body: the adaptive network; its head is not used.
        out_indices: which of its stages, as in timm; None: all.

    Attributes:
        feature_info: timm's: `channels()` and `reduction()` of the maps.

    Raises:
        UserError: for a stage that it does not have.
    """

    def __init__(self, body: Any, out_indices: Sequence[int] | int | None = None) -> None:
        super().__init__()
        count = len(body.feature_info)
        try:
            asked = list(out_indices) if isinstance(out_indices, Iterable) else out_indices
            chosen = feature_take_indices(count, asked)
        except (AssertionError, TypeError, IndexError) as error:
            raise UserError(f"out_indices={out_indices} are not among the {count} stages of this network: 0 to "
                            f"{count - 1}, or negative from the last") from error
        self.body, self.out_indices = body, tuple(sorted(chosen[0]))
        self.feature_info = FeatureInfo(body.feature_info, self.out_indices)
        self._ends = tuple(stage_ends(body, self.out_indices))
        self._blocks = sum(module in {*body.adaptive_blocks()} for module in body.trunk()[:self._ends[-1] + 1])
        self._macs: dict[tuple[int, ...], int] = {}

    @property
    def budgets(self) -> Budgets:
        """The network's budgets."""
        return self.body.budgets

    @property
    def execution(self) -> str:
        """`AdaptiveNetwork.execution`."""
        return self.body.execution

    @execution.setter
    def execution(self, value: str) -> None:
        self.body.execution = value

    @property
    def precision(self) -> str:
        """`AdaptiveNetwork.precision`; the maps are float32 in each."""
        return self.body.precision

    @precision.setter
    def precision(self, value: str) -> None:
        self.body.precision = value

    def at_budget(self, budget: float, extrapolate: bool | None = None, per_image: bool | None = None
                  ) -> AbstractContextManager[None]:
        """`AdaptiveNetwork.at_budget`."""
        return self.body.at_budget(budget, extrapolate, per_image)

    def forward(self, x: Tensor, budget: float | Point | None = None, return_usage: bool = False, *,
                masks: Sequence[Tensor] | None = None, per_image: bool | None = None, extrapolate: bool | None = None,
                **how: Any) -> list[Tensor] | tuple[list[Tensor], Usage]:
        """Feature maps at a budget, in any execution.

        Args:
            x: [B, 3, H, W], of any height and width.
            budget, return_usage, masks, per_image, extrapolate: as those of `AdaptiveNetwork.forward`. Of masks, one
                for each block up to the last map; these blocks are what a budget is a fraction of.
            how: what concerns its training: temperature, noise, differentiable_dilation, published_cost, shard.

        Returns:
            A list of [B, C, h, w], in the order of the stages, or (maps, Usage) of the blocks up to the last of them.
        """
        if unknown := [name for name in how if name not in TRAINING]:
            raise UserError(f"feature maps know no {', '.join(unknown)}: they take budget, return_usage, "
                            f"masks, per_image, extrapolate and, in training, {', '.join(TRAINING)}")
        body, size = self.body, tuple(x.shape[2:])
        if is_compiling() and not is_exporting() and not self.training and not torch.is_grad_enabled() and (
                body.execution != "masked" or body.precision != "float32"):
            return _outside(self, x, budget, return_usage, masks=masks, per_image=per_image, extrapolate=extrapolate,
                            **how)
        if budget is None:
            around = asked_around(body)
            if around is not None and around.calls is not None:
                return around.counted(self.forward, x, return_usage, masks)
            budget = DENSE if around is None else around.point
            per_image = per_image if around is None else around.exactly(per_image)
        point = body.point(budget, extrapolate)
        if masks is not None and len(masks) != self._blocks:
            raise ValueError(f"{len(masks)} masks for {self._blocks} blocks")
        if self.training and getattr(body, "grad_checkpointing", False):
            raise UserError("gradient checkpointing cannot repeat what is asked around stages: "
                            "set_grad_checkpointing(False)")
        exact = body.exact(point, (size[0], size[1]), per_image, self._blocks)
        dense = point.name is None
        plain = dense and not return_usage
        as_trained = body.execution == "masked" and body.precision == "float32"
        if not as_trained and (plain or not dense) and not is_compiling():
            ran = sparse_execution().run_sparse(body, x, point, None if plain else masks, return_usage, self._ends,
                                                exact)
            if ran is not None:
                return (ran[0], Usage.gather(ran[1], self.dense_macs(size))) if return_usage else ran[0]
        used: list[BlockUsage] = []
        request = None if plain else Request(
            point.name, offset=point.offset, blend=point.blend, exact=exact, **how)
        given = itertools.repeat(None) if masks is None else iter(masks)
        with asking(body, body.adaptive_blocks(), point, request, given, used):
            maps = trunk_maps(body, x, self._ends)
        return (maps, Usage.gather(used, self.dense_macs(size))) if return_usage else maps

    def dense_macs(self, size: tuple[int, ...]) -> int:
        """MACs of the dense network up to the last map for one image of (height, width), counted once per size."""
        found = self._macs.get(size)
        if found is None:
            first = next(m for m in self.body.modules() if isinstance(m, nn.Conv2d))
            found = count_dense_macs(
                self, (size[0], size[1]), first.in_channels,
                lambda own: asking(own.body, own.body.adaptive_blocks(), Point(None), None))
            self._macs = {**latest(self._macs), size: found}
        return found


@torch.compiler.disable
def _outside(network: FeatureNetwork, *arguments: Any, **how: Any) -> Any:
    """A forward pass between two compiled graphs, as it is without torch.compile."""
    return network.forward(*arguments, **how)
