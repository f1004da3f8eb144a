"""What the blocks of an adaptive network cost when all of them runs, counted without memory or arithmetic."""
from __future__ import annotations

import itertools

import torch
from torch import nn

from bdsa.method.macs import on_meta
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import Request


def block_totals(network: nn.Module, shape: tuple[int, ...], from_first: bool = False) -> list[int]:
    """Conditional MACs of each adaptive block.

    Args:
        network: an adaptive one.
        shape: of its input, [1, C, H, W]; with `from_first`, of what its first adaptive block is given.
    """
    own = on_meta(network)
    x = torch.empty(shape, device="meta", dtype=next(network.parameters()).dtype)
    totals: list[int] = []
    with torch.no_grad():
        for module in itertools.dropwhile(lambda m: from_first and not isinstance(m, AdaptiveBlock), own.trunk()):
            if isinstance(module, AdaptiveBlock):
                x, used = module.run(x, Request(None))
                totals.append(used.total)
            else:
                x = module(x)
    return totals
