"""An adaptive network inside other people's modules: where it is, and what it used when their code called it."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from bdsa.errors import UserError
from bdsa.models.asking import Asked, asking
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.purses import Purses
from bdsa.models.usage import Request, Usage


def network_in(model: nn.Module) -> AdaptiveNetwork:
    """The one adaptive network that a module is, wraps or holds: DistributedDataParallel, a detector, a compiled one.

    Raises:
        UserError: if there is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, AdaptiveNetwork)] if isinstance(model, nn.Module) else []
    if not found:
        raise UserError(f"a {type(model).__name__} holds no adaptive network: make one with bdsa.create_model, or of a "
                        f"network of your own with bdsa.adapt(network, [0.3, 0.5])")
    if len(found) > 1:
        raise UserError(f"a {type(model).__name__} holds {len(found)} adaptive networks: name one of them")
    return found[0]


class Measured:
    """What a network used within `measuring`.

    Attributes:
        size: (height, width) of the images in pixels. It is known where the network itself was called; set it where
            only its blocks or stages were, as torchvision's extractors do.
    """

    def __init__(self, network: AdaptiveNetwork, asked: Asked) -> None:
        self.network, self.asked = network, asked
        self.size: tuple[int, int] | None = None

    @property
    def usage(self) -> Usage:
        """What the one call of the network used.

        Raises:
            UserError: if there was no call, several, or one of blocks alone without a size.
        """
        calls, blocks = self.asked.calls or [], self.asked.used or []
        if len(calls) == 1 and not blocks:
            return calls[0]
        count = len(self.network.adaptive_blocks())
        if not calls and len(blocks) == count:
            size = self.asked.sizes[-1] if self.asked.sizes else self.size
            if size is None:
                raise UserError("the network's blocks were called without the network: say how large the images are, "
                                "used.size = (height, width)")
            return Usage.gather(blocks, self.network.dense_macs(size))
        ran = len(calls) + len(blocks) / count
        raise UserError(f"the network was called {ran:g} times while it was measured, not once: measure each call "
                        f"alone")


@contextmanager
def measuring(network: AdaptiveNetwork, budget: float, **how: Any) -> Iterator[Measured]:
    """Within it, calls of the network or its blocks without a budget run at this one, and what they use is kept.

    Args:
        network: an adaptive network, perhaps deep inside of what is called.
        budget: one that it has.
        how: further arguments of the network's forward pass, such as `temperature`.

    Raises:
        UserError: for a budget that this network was not trained for, and in training with gradient checkpointing,
            whose second forward pass comes after it has ended.
    """
    point = network.point(budget)
    if network.training and getattr(network, "grad_checkpointing", False):
        raise UserError("gradient checkpointing cannot repeat what is asked around a call: call "
                        "network(x, budget=...), or set_grad_checkpointing(False)")
    request = Request(point.name, offset=point.offset, blend=point.blend, **how)
    purses = Purses(network, point) if network.decides_exactly(point, None) else None
    with asking(network, network.adaptive_blocks(), point, request, used=[], calls=[], how=how,
                purses=purses) as around:
        yield Measured(network, around)
