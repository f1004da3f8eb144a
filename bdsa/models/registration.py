"""A user's own networks: a function that builds one becomes a name, as timm's are."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models import is_model
from timm.models import register_model as register_with_timm
from torch import nn

import bdsa.models.cifar_resnet  # noqa: F401  (its names are taken too)
from bdsa.errors import UserError
from bdsa.models.surgery import make_adaptable

OWN: list[str] = []  # the names that were registered here


def register_model(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator that makes a function available as `model=<name>`, `teacher=<name>` and in `bdsa.create_model`.

    The function takes `num_classes` and further arguments by name, those of `model.args`, and returns a dense network
    with fresh weights: a timm ResNet or ConvNeXt of any shape, or an nn.Module of their blocks (BasicBlock, Bottleneck,
    ConvNeXtBlock) which has

    - `trunk()`: a list of the modules between the image and the head in order, blocks one by one,
    - `forward_head(x)`: from the last map to the logits,
    - `num_classes`, and `feature_info`, whose last entry's "reduction" says how many times the image is reduced.

    Raises:
        UserError: if the name is taken or cannot be a model's.
    """
    if is_model(name):
        raise UserError(f"model '{name}' exists already: choose another name")
    if not name.isidentifier():
        raise UserError(f"model '{name}' must be named with letters, digits and _")

    def add(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def entry(pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None,
                  cache_dir: Any = None, **arguments: Any) -> nn.Module:
            if pretrained:
                raise UserError(f"model {name} has no pretrained weights to fetch: give a local file with "
                                f"model.weights=PATH")
            network = build(**arguments)
            make_adaptable(network, name)
            return network

        entry.__name__ = entry.__qualname__ = name
        entry.__module__, entry.__doc__ = build.__module__, build.__doc__
        register_with_timm(entry)
        OWN.append(name)
        return build
    return add
