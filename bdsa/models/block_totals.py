"""What the blocks of an adaptive network cost when all of them runs, counted without memory or arithmetic."""
from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import Request


def block_totals(network: nn.Module, shape: tuple[int, ...], from_first: bool = False) -> list[int]:
    """Conditional MACs of each adaptive block.

    Args:
        network: an adaptive one.
        shape: of its input, [1, C, H, W]; with `from_first`, of what its first adaptive block is given.
    """
    meta = {f"network.{k}": v.to("meta") for k, v in (*network.named_parameters(), *network.named_buffers())}
    x = torch.empty(shape, device="meta", dtype=next(network.parameters()).dtype)
    with torch.no_grad():
        return functional_call(_Totals(network), meta, (x, from_first))


class _Totals(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor, from_first: bool) -> list[int]:
        totals, trunk = [], self.network.trunk()
        for module in itertools.dropwhile(lambda m: from_first and not isinstance(m, AdaptiveBlock), trunk):
            if isinstance(module, AdaptiveBlock):
                x, used = module.run(x, Request(None))
                totals.append(used.total)
            else:
                x = module(x)
        return totals
