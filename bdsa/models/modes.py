"""Another mode for a while, after which all is as it was: frozen modules stay frozen."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from bdsa.models.network import AdaptiveNetwork


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it, a model and all its modules are in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def one_look(network: AdaptiveNetwork) -> Iterator[None]:
    """Within it, calls that do not say otherwise look once, at budgets that are means over images."""
    before = network.per_image, network.cascade
    network.per_image, network.cascade = False, False
    try:
        yield
    finally:
        network.per_image, network.cascade = before
