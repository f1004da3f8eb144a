"""Whether a network runs sparsely now, or why it does not; and what it keeps of that from call to call."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.budgets import DENSE
from bdsa.config.names import CONSTANT
from bdsa.errors import UserError
from bdsa.method.curves import Point
from bdsa.method.exact import ExactBudget
from bdsa.models.usage import BlockUsage
from bdsa.sparse import native, precision
from bdsa.sparse.executor import Executor
from bdsa.sparse.executors import executors_of, say_once
from bdsa.sparse.exported import exported as exported
from bdsa.sparse.feature_maps import feature_maps
from bdsa.sparse.gpu import device as gpu
from bdsa.sparse.inference import NotFinite
from bdsa.sparse.watch import watcher

LONGEST = 2 ** 15 - 1  # side of an image in pixels: positions of a map are kept in 16 bits


def executor_of(network: nn.Module, budget: str) -> Executor:
    """The executor of a network in evaluation mode at a budget, by name.

    Raises:
        UserError: if there can be none.
    """
    return _executor(network, Point(budget))


def executor_at(network: nn.Module, budget: float) -> Executor:
    """The executor that a network in evaluation mode runs at a budget, one between those that were trained too.

    Raises:
        UserError: as `executor_of`, and for a budget out of reach.
    """
    return _executor(network, network.point(budget))


def uses_executor(network: nn.Module) -> bool:
    """Whether a network on a CPU runs by executors, in evaluation mode and without gradients: sparsely, or masked in a
    type that the kernels have; else it calls its modules, in float32."""
    half = native.unavailable() is None and precision.dtype_of(network.precision) != torch.float32
    return half or network.execution != "masked"


def precision_taken(network: nn.Module, budget: float) -> str:
    """The precision in which a network on a CPU runs a budget by its execution; of "auto" it is known after its first
    images.

    Int8 is of sparse blocks: masked ones run in the type of the maps.

    Raises:
        UserError: as `executor_at`.
    """
    if not uses_executor(network):
        return "float32"
    made = executor_at(network, budget)
    return str(made.dtype if network.execution == "masked" else made.products).removeprefix("torch.")


def _executor(network: nn.Module, point: Point) -> Executor:
    made = executors_of(network).of(network, point.name or DENSE.name, blend=point.blend)
    if made.executor is None:
        raise UserError(f"this network has no sparse execution: {made.watch.reason}")
    return made.executor


def distrust(network: nn.Module) -> None:
    """Look at all that was made of a network's weights, when it is next used, even where they are constants."""
    for made in executors_of(network).made.values():
        made.trusted = False


def forget(network: nn.Module) -> None:
    """Make all anew that was made of a network's weights, when it is next used."""
    executors_of(network).made = {}


def break_even(network: nn.Module) -> dict[str, Any] | None:
    """What `execution = "auto"` has found for a network, to be kept; None before its first call.

    A dictionary for JSON: processor, threads, precision, image_size; "blocks": by the smallest batch of a class,
    the density above which each block runs masked (2: never, -1: always); "whole": where blocks differ, by batch and
    budget, how the whole network is fastest ("sparse", "blocks": as they say, "masked").
    """
    return executors_of(network).found


def use_break_even(network: nn.Module, found: dict[str, Any] | None) -> None:
    """Use what `break_even` gave, if processor, threads and image size are still the same; else it is found anew.

    Raises:
        UserError: for what was found for a network of other blocks.
    """
    blocks = len(network.adaptive_blocks())
    for case, densities in ({} if found is None else found["blocks"]).items():
        some = re.search(r"the first (\d+) blocks", case)  # of a network that gives feature maps
        if len(densities) != (int(some[1]) if some else blocks) or len(densities) > blocks:
            raise UserError(f"these break-even densities are of {len(densities)} blocks, and the network has {blocks}: "
                            f"give those that break_even(network) found for it")
    executors_of(network).found = found


def settle(network: nn.Module) -> None:
    """Measure no more which way blocks are faster: what was not measured goes as the nearest that was."""
    executors_of(network).settled = True


def run_sparse(network: nn.Module, x: Tensor, point: Point, given: Sequence[Tensor] | None, count: bool,
               ends: tuple[int, ...] = (), exact: ExactBudget | None = None) -> tuple[Any, list[BlockUsage]] | None:
    """A network's logits, sparsely, and its blocks' usage; None where only masked execution can do it.

    Args:
        point: where it runs; the dense network has usage only in masked execution.
        ends: places in the trunk whose maps, a list of [B, C, h, w], take the place of the logits.
        x, given, count, exact: see `Executor.__call__`.
    """
    if network.training or getattr(x, "is_meta", False):
        return None
    if torch.is_grad_enabled():
        say_once("sparse execution carries no gradient: masked execution runs instead; wrap the call in "
                  "torch.inference_mode()")
        return None
    on_gpu = gpu.serves(x.device)
    half = network.precision in ("bfloat16", "int8") or (
        not on_gpu and precision.dtype_of(network.precision) != torch.float32)
    if not half and network.execution == "masked":
        return None
    own = "the network has a forward_head of its own" if "forward_head" in vars(network) else None
    if half and not on_gpu and (reason := native.unavailable() or (None if x.device.type == "cpu" else "a CPU only")):
        say_once(f"float32 instead of {network.precision}, whose kernels are not here: {reason}")
        if network.execution == "masked":
            return None
    ended = "feature maps on a GPU" if on_gpu and ends else (
        "budgets that no image exceeds, on a GPU" if on_gpu and exact else None)
    if reason := watcher() or refusal(x) or own or ended:
        _masked_instead(reason)
        return None
    if point.name is None and (on_gpu or native.unavailable()):
        return None  # nothing is faster than the dense network itself
    try:
        return _run(network, x, point, given, count, ends, exact, on_gpu)
    except NotFinite:  # on a GPU, which is not waited for, it shows in the logits
        _masked_instead("an image holds what is infinite or not a number")
        return None


def _run(network: nn.Module, x: Tensor, point: Point, given: Sequence[Tensor] | None, count: bool,
         ends: tuple[int, ...], exact: ExactBudget | None, on_gpu: bool) -> tuple[Any, list[BlockUsage]] | None:
    """`run_sparse` of an input and a network that may run sparsely, if their weights do."""
    kept = executors_of(network)
    made = kept.of(network, point.name or DENSE.name, x, ends, point.blend)
    occupied = made.occupied if network.watch_weights == CONSTANT else made.watch.occupied()
    if made.executor is None or occupied:
        _masked_instead(occupied or made.watch.reason)
        return None
    if on_gpu and not gpu.takes(x, made.executor.weights):
        return None  # masked execution says what is wrong with that

    def infer(counted: bool) -> tuple[Any, list[BlockUsage]]:
        purses = None if exact is None else exact.anew()  # what is tried out below spends some
        if ends:
            return feature_maps(made.executor, x, given, counted, point.offset, purses)
        return made.executor.classify(x, given, counted, network.forward_head, point.offset, purses)

    kept.choose(made.executor, x, given, network.execution, lambda: infer(False))
    return infer(count)


def _masked_instead(reason: str | None) -> None:
    say_once(f"masked execution runs instead of sparse: {reason}")


def refusal(x: Tensor) -> str | None:
    """Why an input cannot run sparsely, or None."""
    if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided:
        return f"an input is a {type(x).__name__}, not a plain tensor"
    if gpu.serves(x.device):
        return gpu.refusal(x)
    if x.device.type != "cpu":
        return f"there are sparse kernels for CPUs and CUDA, not for {x.device.type}"
    if max(x.shape[2:], default=0) > LONGEST:
        return f"an image has a side above {LONGEST:,} pixels"
    if x.dtype != torch.float32:
        return f"the sparse kernels compute in float32, not {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on"
    return None
