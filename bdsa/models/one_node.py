"""A sparse network as one node of a graph that torch.compile or torch.export makes, so that no graph breaks.

Compiled, the node calls the network as it is when it runs: weights may change, and so may the budget asked around it.
Exported, it is the network's program (`bdsa.sparse.exported`).
"""
from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling, is_exporting

from bdsa.errors import UserError
from bdsa.models.features import sparse_execution

_known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_library = torch.library.Library("bdsa", "FRAGMENT")
# What it computes depends on more than its inputs, so that no CUDA graph of others may hold it.
_library.define("adaptive(Tensor images, int network, float? budget, bool? per_image, bool? extrapolate, int classes)"
                " -> Tensor", tags=[tag for tag in [getattr(torch.Tag, "cudagraph_unsafe", None)] if tag is not None])


def one_node(network: Any, budget: object) -> bool:
    """Whether a graph that is being made holds the network at this budget as one node, not its layers.

    Where gradients are wanted its layers are compiled, masked, as they run without torch.compile.
    """
    if network.training or (network.execution == "masked" and network.precision == "float32"):
        return False
    if is_exporting():
        return network.execution != "masked" and not network.several(budget)
    return not torch.is_grad_enabled() and (budget is None or isinstance(budget, (int, float)))


def call(network: Any, images: Tensor, budget: Any, per_image: bool | Tensor | None, extrapolate: bool | None,
         cascade: bool = False) -> Tensor:
    """Logits [B, classes] of images [B, C, H, W]; the rest as `AdaptiveNetwork.forward` takes it.

    A cascade is called so in exports alone.

    Raises:
        UserError: for what cannot be exported.
    """
    if not is_exporting():
        asked = None if budget is None else float(budget)
        return torch.ops.bdsa.adaptive(images, _number_of(network), asked, per_image, extrapolate,
                                       _width(network))
    if is_dynamo_compiling():
        raise UserError("torch.export takes a sparse network with strict=False alone; or export bdsa.portable(network)")
    return sparse_execution().exported(network, images, budget, per_image, extrapolate, cascade)


def _width(network: Any) -> int:
    """How many numbers an image gives, whatever the classifier was replaced by."""
    classifier = getattr(network, "get_classifier", lambda: None)()
    parts = [] if classifier is None else classifier.modules()
    widths = [getattr(part, "out_features", None) or getattr(part, "out_channels", None) for part in parts]
    return [*filter(None, [getattr(network, "num_features", 0), network.num_classes, *widths])][-1]


@torch.compiler.assume_constant_result
def _number_of(network: Any) -> int:
    """By which the operator knows a network; dynamo guards on which one it is."""
    _known[id(network)] = network
    return id(network)


def _run(images: Tensor, network: int, budget: float | None, per_image: bool | None, extrapolate: bool | None,
         classes: int) -> Tensor:
    logits = _known[network].forward(images, budget, per_image=per_image, extrapolate=extrapolate,
                                     cascade=False)  # a cascade is no node of a compiled graph
    return logits.contiguous()


_library.impl("adaptive", _run, "CompositeExplicitAutograd")
torch.library.register_fake("bdsa::adaptive", lambda images, network, budget, per_image, extrapolate, classes:
                            images.new_empty((images.shape[0], classes)), lib=_library)
