"""Which way a network runs: its executors, kept as long as it lives and made anew when its weights change."""
from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bdsa.models.usage import BlockUsage, Request
from bdsa.sparse import native
from bdsa.sparse.executor import Executor, fingerprint, refusal

log = logging.getLogger(__name__)
_executors: weakref.WeakKeyDictionary[nn.Module, _Executors] = weakref.WeakKeyDictionary()
_said: set[str] = set()


class _Executors:
    """A network's executors by budget, for one state of its weights."""

    def __init__(self) -> None:
        self.made_from: tuple[int, ...] = ()
        self.by_budget: dict[str, Executor] = {}

    def of(self, network: nn.Module, budget: str) -> Executor:
        """The executor of a budget, made now if need be."""
        state = fingerprint(network)
        if state != self.made_from:
            self.made_from, self.by_budget = state, {}
        if budget not in self.by_budget:
            with torch.inference_mode(False), torch.no_grad():  # plans outlive the caller's mode
                self.by_budget[budget] = Executor.of(network.trunk(), budget)
            self._explain(self.by_budget[budget])
        return self.by_budget[budget]

    @staticmethod
    def _explain(executor: Executor) -> None:
        if reason := native.missing():
            _say_once(f"sparse execution without its native kernels, which is slower: {reason}")
        for reason in sorted(executor.masked_because()):
            _say_once(f"blocks with {reason} have no sparse form and run masked")


def executor_of(network: nn.Module, budget: str) -> Executor:
    """The executor of a network in evaluation mode at a budget, by name."""
    return _executors.setdefault(network, _Executors()).of(network, budget)


def run_sparse(network: nn.Module, x: Tensor, request: Request, given: Sequence[Tensor] | None,
               count: bool) -> tuple[Tensor, list[BlockUsage]] | None:
    """A network's last feature map, sparsely, and its blocks' usage; None where only masked execution can do it.

    Args: see `Executor.__call__`.
    """
    if network.training:
        return None
    if torch.is_grad_enabled():
        _say_once("sparse execution carries no gradient: masked execution runs instead; wrap the call in "
                  "torch.inference_mode()")
        return None
    if reason := refusal(x):
        _say_once(f"masked execution runs instead of sparse: {reason}")
        return None
    return executor_of(network, request.budget)(x, request, given, count)


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        log.warning(message)
