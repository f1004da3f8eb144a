"""A block's masked way for inference: dense convolutions with one budget's batch norms folded in, times the mask."""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bdsa.method.norms import Blend, BudgetBatchNorm2d
from bdsa.models.blocks import AdaptiveBlock
from bdsa.sparse.packing import budget_norm, folded


class _Folded(nn.Module):
    """In the place of a norm that is part of the layer before it."""

    def forward(self, x: Tensor, budget: str | None = None) -> Tensor:
        return x


def folded_block(block: AdaptiveBlock, budget: str | Blend) -> AdaptiveBlock:
    """A copy of a block in evaluation mode whose `masked` is that of the block at a budget, to rounding.

    Args:
        block: of any type; norms that no convolution precedes stay as they are.
        budget: its name.
    """
    copied = copy.deepcopy(block, {id(block.mask_units): nn.ModuleDict()}).eval()
    # Of a block of someone's own it is not known which norm follows which layer.
    pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)] if block.norms_follow else []
    shortcut = getattr(copied, "downsample", None)
    if pairs and isinstance(shortcut, nn.Sequential):
        pairs += [(f"downsample.{i}", f"downsample.{i + 1}") for i in range(len(shortcut) - 1)]
    modules = dict(copied.named_modules())
    for before, name in pairs:
        layer, norm = modules.get(before), modules.get(name)
        if type(layer) is nn.Conv2d and type(norm) in (nn.BatchNorm2d, BudgetBatchNorm2d):  # others stay as they are
            weight, bias = folded(layer, budget_norm(norm, budget))
            layer.weight, layer.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
            copied.set_submodule(name, _Folded())
    return copied.to(memory_format=torch.channels_last).requires_grad_(False)
