"""What is asked of adaptive blocks that are called as timm calls them: `block(x)` has no room for a budget.

timm's feature extractors, `forward_features` and hooks on stages need blocks to be called in this way. What is asked
holds for one thread and one piece of work, and is seen nowhere else.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.method.curves import Point
from bdsa.method.exact import ExactBudget
from bdsa.models.usage import BlockUsage, Request, Usage

log = logging.getLogger(__name__)
_said: set[str] = set()


@dataclass(frozen=True)
class Asked:
    """What the blocks of one network are asked for.

    Attributes:
        network: the network's id.
        blocks: the ids of its blocks.
        point: the budget that was given.
        request: how the blocks run; None: densely, as timm's.
        purses: what decides for a block and its input, where no image may exceed its budget (`bdsa.models.purses`).
        given: for each call, a mask that decides, or None.
        used: what the calls used, where someone wants to know.
        calls, sizes, how: likewise for calls of the network itself: what each used, the (height, width) of the images
            where only features were asked for, and the arguments that it is called with.
    """
    network: int
    blocks: frozenset[int]
    point: Point
    request: Request | None
    given: Iterator[Tensor | None] | None = None
    used: list[BlockUsage] | None = None
    calls: list[Usage] | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    how: dict[str, Any] = field(default_factory=dict)
    purses: Callable[[nn.Module, Tensor], ExactBudget] | None = None

    def exactly(self, per_image: bool | None) -> bool | None:
        """`per_image` of a call within: as it says itself, or as was said around it."""
        return True if per_image is None and self.purses is not None else per_image

    def asks(self, block: nn.Module, x: Tensor) -> Request | None:
        """How a block runs that is called with x."""
        if self.purses is None or self.request is None:
            return self.request
        return replace(self.request, exact=self.purses(block, x))

    def counted(self, call: Callable[..., tuple[Any, Usage]], x: Tensor, return_usage: bool,
                masks: Sequence[Tensor] | None) -> Any:
        """What a call of the network at this budget gives, with its usage kept in `calls` (`bdsa.models.measuring`)."""
        found, usage = call(x, self.point, True, masks=masks, **self.how)
        if self.calls is not None:
            self.calls.append(usage)
        return (found, usage) if return_usage else found


_asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


@contextmanager
def asking(network: nn.Module, blocks: Iterable[nn.Module], point: Point, request: Request | None,
           given: Iterator[Tensor | None] | None = None, used: list[BlockUsage] | None = None,
           calls: list[Usage] | None = None, how: dict[str, Any] | None = None,
           purses: Callable[[nn.Module, Tensor], ExactBudget] | None = None) -> Iterator[Asked]:
    """Within it, blocks of a network that are called plainly do what is asked; see `Asked`."""
    asked = Asked(id(network), frozenset(map(id, blocks)), point, request, given, used, calls, how=how or {},
                  purses=purses)
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def asked_of(block: nn.Module) -> Asked | None:
    """What a block is asked for; None, and one line the first time, if nothing was said."""
    asked = _asked.get()
    if asked is not None and id(block) in asked.blocks:
        return asked
    # The second forward pass of gradient checkpointing runs within the backward one, and was asked for before.
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
        _say_dense()
    return None


def asked_around(network: nn.Module) -> Asked | None:
    """What was asked of a network around this call."""
    asked = _asked.get()
    return asked if asked is not None and asked.network == id(network) else None


def one_look_asked(network: nn.Module) -> bool:
    """Whether `at_budget` around this call asks for one look below 1."""
    asked = asked_around(network)
    return asked is not None and asked.calls is None and asked.point.name is not None


def _say_dense() -> None:
    message = ("blocks of an adaptive network were called without a budget, and run densely: name it by "
               "`with network.at_budget(0.5):` around the call, or by the argument budget of forward_features and "
               "forward_intermediates")
    if message not in _said:
        _said.add(message)
        log.warning(message)
