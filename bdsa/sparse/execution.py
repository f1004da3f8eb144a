"""Which way a network runs: its executors, kept as long as it lives and made anew when its weights change."""
from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.budgets import DENSE
from bdsa.method.norms import BatchStatistics, BudgetNorm
from bdsa.models.usage import BlockUsage
from bdsa.sparse import auto, native
from bdsa.sparse.executor import Executor, refusal

log = logging.getLogger(__name__)
_executors: weakref.WeakKeyDictionary[nn.Module, _Executors] = weakref.WeakKeyDictionary()
_said: set[str] = set()


@dataclass
class _Made:
    """An executor, the classifier and the state of the weights that it was made from."""
    executor: Executor
    classifier: nn.Module
    watched: list[Tensor]
    state: list[int]


class _Executors:
    """A network's executors by budget."""

    def __init__(self, network: nn.Module) -> None:
        self.made: dict[str, _Made] = {}
        self.found: dict[str, Any] | None = None
        network.register_load_state_dict_post_hook(lambda *_: self.made.clear())  # it may replace tensors

    def of(self, network: nn.Module, budget: str) -> Executor:
        """The executor of a budget, made now if need be, or anew where a weight or statistic has changed."""
        made = self.made.get(budget)
        classifier = network.get_classifier()  # which users replace
        if made is None or made.classifier is not classifier or made.state != _state(made.watched):
            with torch.inference_mode(False), torch.no_grad():  # plans outlive the caller's mode
                executor = Executor.of(network, budget)
            watched = _tensors_of(network, budget)
            made = self.made[budget] = _Made(executor, classifier, watched, _state(watched))
            self._explain(executor)
        return made.executor

    def choose(self, executor: Executor, x: Tensor, automatic: bool) -> None:
        """Set which way the executor's blocks go: sparsely, or as a calibration on this machine says."""
        batch = auto.batch_class(x)
        case = (automatic, x.device, batch, x.shape[2:], torch.get_num_threads())
        if executor.chosen_for == case:
            return
        densities = [auto.ALWAYS] * len(executor.blocks())
        if automatic:
            here = auto.conditions(x)
            if self.found is None or any(self.found.get(key) != value for key, value in here.items()):
                self.found = {**here, "blocks": {}}
            if batch not in self.found["blocks"]:
                self.found["blocks"][batch] = auto.calibrate(executor, x)
            densities = self.found["blocks"][batch]
        executor.set_break_even(densities)
        executor.chosen_for = case

    @staticmethod
    def _explain(executor: Executor) -> None:
        if reason := native.unavailable():
            _say_once(f"sparse execution without its native kernels, which is slower: {reason}")
        for reason in sorted(executor.masked_because()):
            _say_once(f"blocks with {reason} have no sparse form and run masked")


def _tensors_of(network: nn.Module, budget: str) -> list[Tensor]:
    """The weights and statistics that a budget uses: others may change. The fewer, the faster an inference begins."""
    found: dict[int, Tensor] = {}
    others = {b.name for b in network.budgets.adaptive} - {budget}
    for name, module in network.named_modules():
        own = module.per_budget[budget] if isinstance(module, BudgetNorm) and budget in module.per_budget else None
        if own is not None and not isinstance(own, BatchStatistics):
            continue  # the budget's own norm stands in for this one
        if not others.isdisjoint(name.split(".")):
            continue
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        found.update({id(t): t for t in tensors if t.is_floating_point() and not t.is_inference()})
    return list(found.values())


def _state(watched: list[Tensor]) -> list[int]:
    """In-place changes count a tensor's version up; a move to another device or type changes all pointers at once."""
    return [watched[0].data_ptr() if watched else 0, *[t._version for t in watched]]


def executor_of(network: nn.Module, budget: str) -> Executor:
    """The executor of a network in evaluation mode at a budget, by name."""
    return _kept(network).of(network, budget)


def break_even(network: nn.Module) -> dict[str, Any] | None:
    """What `execution = "auto"` has found for a network, to be kept; None before its first call.

    A dictionary for JSON: processor, threads, image_size and "blocks": by the smallest batch of a class, the density
    above which each block runs masked (2: never, -1: always).
    """
    return _kept(network).found


def use_break_even(network: nn.Module, found: dict[str, Any]) -> None:
    """Use what `break_even` gave, if processor, threads and image size are still the same; else it is found anew."""
    _kept(network).found = found


def _kept(network: nn.Module) -> _Executors:
    if network not in _executors:
        _executors[network] = _Executors(network)
    return _executors[network]


def run_sparse(network: nn.Module, x: Tensor, budget: str, given: Sequence[Tensor] | None, count: bool
               ) -> tuple[Tensor, list[BlockUsage]] | None:
    """A network's logits, sparsely, and its blocks' usage; None where only masked execution can do it.

    Args:
        budget: its name; the dense network's has usage only in masked execution.
        x, given, count: see `Executor.__call__`.
    """
    if network.training or x.is_meta:
        return None
    if torch.is_grad_enabled():
        _say_once("sparse execution carries no gradient: masked execution runs instead; wrap the call in "
                  "torch.inference_mode()")
        return None
    if reason := refusal(x):
        _say_once(f"masked execution runs instead of sparse: {reason}")
        return None
    if budget == DENSE.name and (native.unavailable() or x.device.type != "cpu"):
        return None  # nothing is faster than the dense network itself
    kept = _kept(network)
    executor = kept.of(network, budget)
    kept.choose(executor, x, network.execution == "auto")
    return executor.classify(x, given, count, network.forward_head)


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        log.warning(message)
