"""The dense network behind an adaptive one, as a plain timm network: what other engines can take over."""
from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bdsa.method.norms import NORMS
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.surgery import BLOCKS, NETWORKS

SIDE = 64  # of noise on which a folded network is compared; timm's networks take it
APART = 0.05  # of its answer: more than rounding of half precision, less than another network's
_PLAIN = {adaptive: plain for table in (BLOCKS, NETWORKS, NORMS) for plain, adaptive in table.items()}


def dense_copy(network: AdaptiveNetwork) -> nn.Module:
    """A copy in eval mode with timm's own classes, without mask units and norms of budgets.

    It computes what `network(x)` does, bit for bit.
    """
    copied = copy.deepcopy(network).eval()
    for module in list(copied.modules()):
        if type(module) in _PLAIN:
            for added in ("mask_units", "per_budget"):
                if hasattr(module, added):
                    delattr(module, added)
            module.__class__ = _PLAIN[type(module)]
    return copied


def fold_batch_norms(network: nn.Module) -> nn.Module | None:
    """A copy of a dense network in which every batch norm is part of the convolution before it.

    None where it has none, or where they are not registered as they are called, one right behind the other, as in
    timm's ResNets.

    Args:
        network: in eval mode.
    """
    folded = copy.deepcopy(network)
    leaves = [(name, m) for name, m in folded.named_modules() if not any(m.children())]
    pairs = [(before, name, conv, norm) for (before, conv), (name, norm) in zip(leaves, leaves[1:])
             if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)]
    if any(conv.out_channels != norm.num_features for _, _, conv, norm in pairs):
        return None
    for before, name, conv, norm in pairs:
        folded.set_submodule(before, fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(name, nn.Identity())
    return folded if pairs and _alike(folded, network) else None


@torch.no_grad()
def _alike(folded: nn.Module, network: nn.Module) -> bool:
    """Whether two networks answer noise alike, up to rounding."""
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    noise = torch.randn(1, first.in_channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(first.weight)
    try:
        found, expected = folded(noise).float(), network(noise).float()
    except RuntimeError:  # a network of one's own, for images of one size
        return False
    return bool((found - expected).norm() <= APART * expected.norm())
