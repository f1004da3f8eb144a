"""Whether what an executor was made from is still there: modules, tensors, their places and what they hold.

Some changes of weights leave no trace but the weights themselves: writes through `.data` or numpy, fused optimisers,
another process. So all of them are read before an inference, at the speed of memory, and compared by digests.
"""
from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, getitem, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.hooks import RemovableHandle

from bdsa.method.masks import MaskUnit
from bdsa.method.norms import BatchStatistics, Blend, BudgetNorm
from bdsa.sparse import native
from bdsa.sparse.gpu import device as gpu
from bdsa.sparse.packing import plain_convolution

PIECE = 1 << 16  # bytes that one thread digests at a time
_STATE = ("training", "_forward_hooks", "_forward_pre_hooks")  # of a module, that make it another one while they hold
_version, _training = attrgetter("_version"), itemgetter("training")


class Watch:
    """What a network computes with at a budget, or at its masks and blended norms.

    The network itself is not kept, so that it is let go with its last user.

    Attributes:
        reason: why it cannot run sparsely, or None.
    """

    def __init__(self, network: nn.Module, budget: str, blend: Blend | None = None) -> None:
        used = {budget} if blend is None else {budget, blend.first, blend.second}
        others = {b.name for b in network.budgets.adaptive} - used
        named = [(n, m) for n, m in network.named_modules() if n and others.isdisjoint(n.split("."))]
        self.names, self.modules = [n for n, _ in named], [m for _, m in named]
        self.types, self.own = list(map(type, self.modules)), list(map(vars, self.modules))
        everything = [network, *self.modules]
        self.trees = [m._modules for m in everything if m._modules]
        self.sizes = list(map(len, self.trees))
        self.children = _Slots((d, k, v) for d in self.trees for k, v in d.items())
        held = [(d, k, v) for m in everything for d in _tensors_of(m, budget) for k, v in d.items()]
        tensors = [v for _, _, v in held if v is not None]
        unusual = _unusual_tensors(tensors)
        self.reason, readable = unusual or _unusual_modules(named) or _not_finite(tensors), unusual is None
        present = [slot for slot in held if slot[2] is not None and readable]
        self.others = _Slots(slot for slot in held if slot[2] is None or not readable)  # seen when they are replaced
        # A matrix may be seen in another way with its memory unchanged; a vector cannot.
        self.vectors = _Slots(slot for slot in present if slot[2].dim() < 2)
        self.matrices = _Slots(slot for slot in present if slot[2].dim() > 1)
        self.tensors = [*self.vectors.values, *self.matrices.values]
        with torch.inference_mode(False), torch.no_grad():
            kept = {id(t): t.detach() for t in self.tensors}  # no other tensor gets their memory meanwhile
        self.places = [kept[id(t)].data_ptr() for t in self.vectors.values]
        self.views = [kept[id(t)] for t in self.matrices.values]
        self.counted = [t for t in self.tensors if not t.is_inference()]
        self.versions = list(map(_version, self.counted))
        self.contents = _contents(list(kept.values()))
        self.handles = -1  # of hooks that were ever made, when there was none here

    def is_current(self, read: bool) -> bool:
        """Whether the network still computes with the same.

        Args:
            read: compare all contents, which shows every change; else the versions alone, which operations on a
                tensor count up, and those around it (`.data`, fused optimisers, numpy) do not.
        """
        try:
            if list(map(len, self.trees)) != self.sizes or list(map(type, self.modules)) != self.types:
                return False
            if not (self.children.hold() and self.others.hold()):
                return False
            if list(map(Tensor.data_ptr, self.vectors.now())) != self.places:
                return False
            if not all(map(Tensor.is_set_to, self.matrices.now(), self.views)):
                return False
        except (KeyError, TypeError, RuntimeError):  # a slot is gone, or holds no tensor with memory any more
            return False
        return self.contents.same() if read else list(map(_version, self.counted)) == self.versions

    def occupied(self) -> str | None:
        """What keeps a module from being replaced by a kernel now, or None: a hook, training mode, its own forward."""
        handles = RemovableHandle.next_id
        if self.handles == handles and not any(map(_training, self.own)) and not any("forward" in o for o in self.own):
            return None
        for name, module in zip(self.names, self.modules):
            if module.training:
                return f"{name} is in training mode"
            if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
                return f"{name} has a hook, or a forward of its own"
        self.handles = handles
        return None


class _Slots:
    """Places in dictionaries of modules, and what they held."""

    def __init__(self, slots: Iterable[tuple[dict, str, object]]) -> None:
        all_of = list(slots)
        self.owners, self.keys = [d for d, _, _ in all_of], [k for _, k, _ in all_of]
        self.values = [v for _, _, v in all_of]

    def now(self) -> Iterable:
        return map(getitem, self.owners, self.keys)

    def hold(self) -> bool:
        return all(map(is_, self.now(), self.values))


def _tensors_of(module: nn.Module, budget: str) -> list[dict]:
    """A module's own tensors that a budget uses. The fewer, the faster an inference begins."""
    own = module.per_budget[budget] if isinstance(module, BudgetNorm) and budget in module.per_budget else None
    if own is not None and not isinstance(own, BatchStatistics):
        return []  # the budget's own norm stands in for this one
    return [module._parameters, module._buffers]


def _unusual_tensors(tensors: list[Tensor]) -> str | None:
    """Why a network's tensors cannot be read as they lie in memory, or None."""
    for t in tensors:
        if type(t) not in (Tensor, nn.Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(t):
            return f"a weight is a {type(t).__name__}, not a plain tensor"
        if t.device.type not in ("cpu", "cuda") or t.device != tensors[0].device or t.layout != torch.strided:
            return f"a weight is on {t.device}"
    return None


def _unusual_modules(named: list[tuple[str, nn.Module]]) -> str | None:
    """Why a network's modules cannot be replaced by kernels, or None; `planning.why_masked` looks at each block."""
    by_name = dict(named)
    for name, module in named:
        if not vars(module).keys() >= set(_STATE):
            return f"{name} is a {type(module).__name__}"
        if is_parametrized(module):
            return f"{name} is parametrised"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            return f"{name} has no running statistics"
        block, inside, place = name.rpartition(".mask_units.")
        if inside and "." not in place and not _plain_unit(module, *by_name[block].geometry()):
            return f"{name} is not the mask unit that it was"
    return None


def _plain_unit(unit: nn.Module, channels: int, stride: int) -> bool:
    """Whether a module is a mask unit as `MaskUnit` makes it, for a block's input and stride."""
    if type(unit) is not MaskUnit or not plain_convolution(unit.conv, 3) or type(unit.fc) is not nn.Linear:
        return False
    if unit.conv.weight.shape[:2] != (1, channels) or unit.fc.weight.shape != (1, channels):
        return False
    if unit.conv.stride != (stride, stride) or unit.conv.bias is None or unit.fc.bias is None:
        return False
    return type(unit.norm) is nn.Identity or (
        type(unit.norm) is nn.BatchNorm2d and unit.norm.num_features == 1 and unit.norm.affine)


def _not_finite(tensors: list[Tensor]) -> str | None:
    """Why weights cannot be folded and left out where masks are empty, or None."""
    for t in tensors:
        if t.is_floating_point() and t.dtype not in (gpu.TYPES if gpu.serves(t.device) else (torch.float32,)):
            return f"a weight is {t.dtype}"
        if t.is_floating_point() and not torch.isfinite(
                t.detach().sum(dtype=torch.promote_types(t.dtype, torch.float32))):
            return "a weight is infinite or not a number"
    return None


def _contents(tensors: list[Tensor]) -> Any:
    """What tells whether tensors still hold the same: by digests, on a GPU by its kernels, else by copies."""
    if tensors and gpu.serves(tensors[0].device) and gpu.unavailable(tensors[0].device) is None:
        from bdsa.sparse.gpu.contents import GpuContents  # which needs Triton
        return GpuContents(tensors)
    native_ones = native.unavailable() is None and all(t.device.type == "cpu" for t in tensors)
    return _Digests(tensors) if native_ones else _Copies(tensors)


class _Digests:
    """What tensors held, by digests of their memory."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        pieces = []
        for t in tensors:
            last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
            end = (last + 1) * t.element_size() if t.numel() else 0
            pieces += [(t.data_ptr() + start, min(PIECE, end - start)) for start in range(0, end, PIECE)]
        self.pieces = native.pieces(pieces)
        self.digests = native.digests(self.pieces)

    def same(self) -> bool:
        return native.digests(self.pieces) == self.digests


class _Copies:
    """What tensors held, as copies: where there are no native kernels."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = [_bits(t) for t in tensors]
        self.copies = [t.clone() for t in self.tensors]

    def same(self) -> bool:
        return all(map(torch.equal, self.tensors, self.copies))


def _bits(tensor: Tensor) -> Tensor:
    """A view of a tensor in which NaN equals NaN."""
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


def watcher() -> str | None:
    """What looks at the operators of this thread now, and would not see native calls, or None."""
    if torch._C._len_torch_dispatch_stack():
        return "a TorchDispatchMode is active"
    if any(type(mode) is not torch.utils._device.DeviceContext for mode in _function_modes()):
        return "a TorchFunctionMode is active"
    if torch.jit.is_tracing():
        return "torch.jit.trace is tracing"
    if torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0:
        return "a transformation of torch.func is active"
    if nn.modules.module._has_any_global_hook():
        return "there are hooks on all modules"
    return None


_function_modes = torch.overrides._get_current_function_mode_stack
