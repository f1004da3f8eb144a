"""Record the calls of the native kernels of one inference, and play them again: a network's without Python's time.

Between image and logits every map, mask and weight lies where it lay before, so that the calls of a next inference
on an image of the same size are the same, to the last argument. As a CUDA graph does, a recording repeats them.
"""
from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_int, c_uint, c_void_p
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bdsa.method.exact import ExactBudget
from bdsa.sparse.build import library


class _Call(ctypes.Structure):
    _fields_ = [("function", c_void_p), ("operation", c_void_p), ("threads", c_int), ("by_image", c_void_p),
                ("images", c_int), ("within", c_uint)]


@dataclass
class Recording:
    """Calls in order.

    Attributes:
        calls: functions of the native library, the operations that they ran, and with how many threads.
        kept: the tensors that the operations point into.
        complete: whether all that ran was recorded; what runs as PyTorch operators cannot be.
        ends: where the tensors lie that the inference begins and ends with; None: any may be used by others.
    """
    calls: list[tuple[Callable[..., Any], ctypes.Structure, int]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    complete: bool = True
    ends: set[int] | None = None
    _array: Any = None
    _decided_at: Any = None

    def decide_at(self, offsets: Sequence[float], exact: ExactBudget | None = None) -> None:
        """Let the units, in their order, decide with these offsets, and within the purses of an exact budget.

        All else is the same at every budget between.
        """
        wanted = offsets, exact and (exact.start, exact.scale, exact.offset)
        if wanted == self._decided_at:
            return
        decisions = [getattr(o, "unit", o) for _, o, _ in self.calls]
        for decision, offset in zip((d for d in decisions if hasattr(d, "offset")), offsets, strict=True):
            decision.offset = offset
        for i, purse in enumerate(o for _, o, _ in self.calls if hasattr(o, "moved")):
            purse.start, purse.scale, purse.moved = exact.start if i == 0 else -1.0, exact.scale, exact.offset
        self._decided_at = wanted

    def close(self, x: Tensor, others: Sequence[Tensor] | None) -> None:
        """Order the calls of an inference that has read images x, which are not kept.

        Args:
            others: all other tensors that it begins and ends with; None: any may be used by others.
        """
        self.ends = None if others is None else {t.data_ptr() for t in (x, *others)}
        self.kept = [t for t in self.kept if t.data_ptr() != x.data_ptr()]
        self._array = self._ordered()

    def play(self, x: Tensor | None = None, out: Tensor | None = None) -> bool:
        """Repeat the calls; whether the images hold what is infinite or not a number.

        Args:
            x: images [B, H, W, C] for the first call to read, in place of those that were recorded.
            out: where the last call's results go, in place of where they went.
        """
        if self._array is None:
            self._array = self._ordered()
        first, last = self.calls[0][1], self.calls[-1][1]
        if out is not None:
            last.out = out.data_ptr()
        if x is None:
            library().bdsa_play(self._array, len(self._array))
            return False
        infinite = c_int.from_address(first.infinite)
        first.x, first.strides, infinite.value = x.data_ptr(), x.stride(), 0
        library().bdsa_play(self._array, len(self._array))
        return bool(infinite.value)

    def _ordered(self) -> ctypes.Array:
        """The calls for the library, some of them image by image (`native/images.h`)."""
        found = []
        for function, operation, threads in self.calls:
            one = getattr(library(), f"{function.__name__}_image", None)
            images = 0 if one is None or threads < 1 else one(byref(operation), -1, 0, 0)
            as_many_each = images % threads == 0 or images >= 4 * threads
            found.append((function, operation, threads, one, images if images > 1 and as_many_each else 0))
        inner = self._within([set(_maps(operation).values()) for _, operation, *_ in found],
                             [call[4] for call in found])
        rows = []
        for (function, operation, threads, one, images), within in zip(found, inner):
            bits = sum(BITS[name] for name, at in _maps(operation).items() if at in within)
            rows.append((_address(function), ctypes.addressof(operation), threads, _address(one), images, bits))
        return (_Call * len(rows))(*rows)

    def _within(self, used: list[set[int]], images: list[int]) -> list[set[int]]:
        """For each call the maps that nothing outside of its segment uses: calls in a row that go image by image."""
        if self.ends is None:
            return [set() for _ in used]
        segments = [0]
        for before, after in zip(images, images[1:]):
            segments.append(segments[-1] + (before != after or after == 0))
        found = []
        for segment, own in zip(segments, used):
            others = set().union(*(maps for s, maps in zip(segments, used) if s != segment))
            found.append(own - others - self.ends)
        return found


BITS = {"x": 1, "out": 2, "mask": 4, "projected": 8, "products": 16, "logits": 32}  # OneImage::Map of native/group.h


def _maps(operation: ctypes.Structure) -> dict[str, int]:
    """Where the maps of an operation lie, by name."""
    found = {name: getattr(operation, name, None) for name in BITS}
    if getattr(operation, "board", None):
        found["products"] = operation.board.contents.products
    return {name: at for name, at in found.items() if at}


def _address(function: Callable[..., Any] | None) -> int | None:
    return None if function is None else ctypes.cast(function, c_void_p).value


class _Running(threading.local):
    recording: Recording | None = None


_running = _Running()


@contextmanager
def recorded() -> Iterator[Recording]:
    """Within it, this thread's native calls are recorded, as well as made."""
    made = _running.recording = Recording()
    try:
        yield made
    finally:
        _running.recording = None


def call(function: Callable[..., Any], operation: ctypes.Structure, threads: int,
         tensors: tuple[Tensor | None, ...]) -> None:
    """Run an operation that points into tensors with a function of the native library."""
    if (recording := _running.recording) is not None:
        recording.calls.append((function, operation, threads))
        recording.kept += [t for t in tensors if t is not None]
    function(byref(operation), threads)


def cannot_record() -> None:
    """Say that something ran that is no native call."""
    if _running.recording is not None:
        _running.recording.complete = False
