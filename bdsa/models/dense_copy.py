"""The dense network behind an adaptive one, as a plain timm network: what other engines can take over."""
from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bdsa.method.norms import NORMS
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.surgery import BLOCKS, NETWORKS

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
    """A copy of a dense network in which every batch norm is part of the convolution before it; None: it has none.

    Args:
        network: in eval mode, with a convolution registered right before each batch norm that follows it, as in
            timm's ResNets.
    """
    folded = copy.deepcopy(network)
    leaves = [(name, m) for name, m in folded.named_modules() if not any(m.children())]
    pairs = [(before, name, conv, norm) for (before, conv), (name, norm) in zip(leaves, leaves[1:])
             if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)]
    for before, name, conv, norm in pairs:
        folded.set_submodule(before, fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(name, nn.Identity())
    return folded if pairs else None
