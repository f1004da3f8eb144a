"""A block's masked way for inference: dense convolutions with one budget's batch norms folded in, times the mask."""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bdsa.models.blocks import AdaptiveBlock
from bdsa.sparse.packing import budget_norm, folded


class _Folded(nn.Module):
    """In the place of a norm that is part of the layer before it."""

    def forward(self, x: Tensor, budget: str | None = None) -> Tensor:
        return x


def folded_block(block: AdaptiveBlock, budget: str) -> AdaptiveBlock:
    """A copy of a block in evaluation mode whose `masked` is that of the block at a budget, to rounding.

    Args:
        block: of any type; norms that no convolution precedes stay as they are.
        budget: its name.
    """
    copied = copy.deepcopy(block, {id(block.mask_units): nn.ModuleDict()}).eval()
    leaves = [(name, m) for name, m in copied.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
              and ".per_budget." not in name]
    for (_, layer), (name, norm) in zip(leaves, leaves[1:]):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            weight, bias = folded(layer, budget_norm(norm, budget))
            layer.weight, layer.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
            copied.set_submodule(name, _Folded())
    return copied.to(memory_format=torch.channels_last).requires_grad_(False)
