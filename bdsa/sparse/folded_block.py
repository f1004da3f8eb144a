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
    for (before, layer), (name, norm) in zip(leaves, leaves[1:]):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            copied.set_submodule(before, _with_norm(layer, budget_norm(norm, budget)))
            copied.set_submodule(name, _Folded())
    return copied.to(memory_format=torch.channels_last).requires_grad_(False)


def _with_norm(layer: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    weight, bias = folded(layer, norm)
    made = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                     layer.dilation, layer.groups, padding_mode=layer.padding_mode, device=weight.device)
    made.weight.data, made.bias.data = weight.float(), bias.float()
    return made
