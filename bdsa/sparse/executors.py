"""A network's executors, kept as long as it lives and made anew when its weights change."""
from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.budgets import DENSE
from bdsa.config.names import CONSTANT
from bdsa.errors import UserError
from bdsa.method.norms import Blend
from bdsa.models.usage import BlockUsage
from bdsa.sparse import auto, native, precision
from bdsa.sparse.executor import Executor
from bdsa.sparse.feature_maps import feature_maps
from bdsa.sparse.gpu import device as gpu
from bdsa.sparse.watch import Watch

log = logging.getLogger(__name__)
_executors: weakref.WeakKeyDictionary[nn.Module, Executors] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_said: set[str] = set()
SIZES = 16  # of images, for which the blocks' ways are kept


@dataclass
class _Made:
    """An executor, or None where there can be none, and what it was made from and for: a setting of `precision`.

    Attributes:
        ranges: the network's, in int8.
    """
    watch: Watch
    executor: Executor | None
    precision: str
    ranges: dict[str, tuple[float, float]]
    trusted: bool = False  # whether it was looked at since the weights were said to be constant
    occupied: str | None = None  # what kept it from running then


class Executors:
    """A network's executors by budget and norms."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, tuple[int, ...], Blend | None, torch.dtype | None], _Made] = {}
        self.found: dict[str, Any] | None = None
        self.others: list[dict[str, Any]] = []  # what was found for other sizes of image and numbers of threads
        self.turning = threading.Lock()  # threads may have images of different sizes
        self.settled = False  # nothing is to be measured any more: what is new goes as what is nearest

    def of(self, network: nn.Module, budget: str, x: Tensor | None = None, ends: tuple[int, ...] = (),
           blend: Blend | None = None) -> _Made:
        """What was made for a budget, made now if need be, or anew where the network or its precision has changed.

        Args:
            x: images by which a precision of "auto" is judged; None: they are not at hand.
            ends: the places in the trunk whose maps are wanted; none: logits are.
            blend: norms in place of the budget's own.
        """
        key = budget, ends, blend, gpu.dtype_for(network, x)
        made = self.made.get(key)
        watched = network.watch_weights
        if watched not in (True, False, CONSTANT):
            raise UserError(f"watch_weights={watched!r} must be True, False or {CONSTANT!r}")
        new, read, constant = made is None, watched and not gpu.capturing(), watched == CONSTANT
        ranges = dict(network.ranges) if network.precision == "int8" else {}
        if made is None or made.precision != network.precision or made.ranges != ranges or not (
                (constant and made.trusted) or made.watch.is_current(read=read)):
            with torch.inference_mode(False), torch.no_grad():  # plans outlive the caller's mode
                watch = Watch(network, budget, blend)  # before the weights are read: what changes meanwhile is seen
                executor = None if watch.reason else _executor(network, budget, x, ends, blend, key[3])
                made = _Made(watch, executor, network.precision, ranges)
            same = {name: kept for name, kept in self.made.items()
                    if (kept.precision, kept.ranges) == (made.precision, made.ranges)} if new else {}
            self.made = {**same, key: made}  # what is old would keep old weights
            if made.executor is not None:
                self._explain(made.executor)
        if constant and not made.trusted:  # of what came before nothing is known
            made.occupied = made.watch.occupied()
        made.trusted = constant
        return made

    def choose(self, executor: Executor, x: Tensor, given: Sequence[Tensor] | None, execution: str,
               infer: Callable[[], object]) -> None:
        """Set which way the executor's blocks go: sparsely, masked, or as a calibration on this machine says.

        Args:
            infer: runs the executor on x and the masks once, as it will be called.
        """
        on_gpu = gpu.serves(x.device)
        batch = executor.case(x, given) if on_gpu else auto.batch_class(x)
        case = (execution, x.device, batch, x.shape[2:], torch.get_num_threads())
        if executor.chosen.conditions == case or gpu.capturing():
            return
        densities = [auto.NEVER if execution == "masked" else auto.ALWAYS] * len(executor.blocks())
        if execution == "auto" and densities:
            found = self._turn_to(auto.conditions(x, executor.products))
            densities = self._found_on_gpu(found, executor, batch, x, given) if on_gpu else self._found(
                found, executor, batch, x, infer)
        executor.set_break_even(densities)
        executor.chosen.conditions = case

    def _found_on_gpu(self, found: dict[str, Any], executor: Any, case: str, x: Tensor, given: Sequence[Tensor] | None
                      ) -> list[float]:
        known = found["blocks"]
        if case not in known:
            near = self.settled and auto.nearest([found, *self.others], x, executor.products,
                                                 len(executor.blocks()), case=case)
            if near:
                return near
            known[case] = _find_ways(executor, x, given)
            self._keep(found)
        return known[case]

    def _found(self, found: dict[str, Any], executor: Executor, batch: str, x: Tensor, infer: Callable[[], object]
               ) -> list[float]:
        """The blocks' densities under the conditions of `found`, measured if need be."""
        steps = executor.blocks()
        budget, known, whole = steps[0].budget, found["blocks"], found.setdefault("whole", {})
        key = batch if executor.whole else f"{batch}, the first {len(steps)} blocks"
        if key not in known:
            near = self.settled and auto.nearest([found, *self.others], x, executor.products, len(steps), budget)
            if near:
                return near
            known[key] = auto.calibrate(executor, x)
            self._keep(found)
        if f"{key}, {budget}" not in whole and not self.settled and (
                way := auto.whole_way(executor, known[key], infer)):
            whole[f"{key}, {budget}"] = way
        return auto.applied(auto.whole_of(found, key, budget), known[key])

    def _turn_to(self, here: dict[str, Any]) -> dict[str, Any]:
        """Make `found` what was found under these conditions, and return it; the rest is kept for their return."""
        with self.turning:
            known = [f for f in (self.found, *self.others) if f is not None]
            same = next((f for f in known if all(f.get(key) == value for key, value in here.items())), None)
            found = self.found = same or {**here, "blocks": {}}
            self.others = [f for f in known if f is not found and f["blocks"]][:SIZES]
        return found

    def _keep(self, found: dict[str, Any]) -> None:
        """Keep what was measured, also where another thread has turned to other conditions meanwhile."""
        with self.turning:
            if not any(found is kept for kept in (self.found, *self.others)):
                self.others = [found, *self.others][:SIZES]

    @staticmethod
    def _explain(executor: Executor) -> None:
        if executor.device_type == "cpu" and (reason := native.unavailable()):
            say_once(f"sparse execution without its native kernels, which is slower: {reason}")
        for reason in sorted(executor.masked_because()):
            say_once(f"blocks with {reason} have no sparse form and run masked")


def _executor(network: nn.Module, budget: str, x: Tensor | None, ends: tuple[int, ...], blend: Blend | None,
              on_gpu: torch.dtype | None) -> Executor:
    """A new executor: on a GPU of this type, else of that which the network's precision means for images such as x."""
    if on_gpu is not None:
        from bdsa.sparse.gpu.executor import GpuExecutor  # which needs Triton
        return GpuExecutor.for_maps(network, budget, on_gpu, blend)
    dtype = precision.dtype_of(network.precision)
    form = native.form(dtype)
    if network.precision == "int8":
        form = replace(form, ranges={network.get_submodule(name): each for name, each in network.ranges.items()})
    made = Executor.of(network, budget, form, ends, blend)
    if network.precision != "auto" or dtype == torch.float32 or x is None:
        return made
    exact = Executor.of(network, budget, native.form(), ends, blend)
    wanted, used = _outputs(network, exact, x[:8], None, budget != DENSE.name)
    found, _ = _outputs(network, made, x[:8], [each.mask for each in used] or None, False)
    apart = max(map(precision.distance, found, wanted))
    if apart <= precision.LIMIT:
        return made
    say_once(f"float32 instead of bfloat16: logits are {apart:.1%} of their spread away, "
              f"more than {precision.LIMIT:.0%}")
    return exact


def _outputs(network: nn.Module, executor: Executor, x: Tensor, given: Sequence[Tensor] | None, count: bool
             ) -> tuple[list[Tensor], list[BlockUsage]]:
    """The maps that an executor is for, or its logits alone."""
    if executor.marks:
        return feature_maps(executor, x, given, count)
    logits, used = executor.classify(x, given, count, network.forward_head)
    return [logits], used


def executors_of(network: nn.Module) -> Executors:
    """A network's own."""
    with _lock:
        return _executors.setdefault(network, Executors())


def _find_ways(executor: Any, x: Tensor, given: Sequence[Tensor] | None) -> list[float]:
    from bdsa.sparse.gpu.ways import find_ways  # which needs Triton
    return find_ways(executor, x, given)


def say_once(message: str) -> None:
    """Warn of something that is the same at every call."""
    if message not in _said:
        _said.add(message)
        log.warning(message)
