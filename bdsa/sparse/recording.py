"""Record the calls of the native kernels of one inference, and play them again: a network's without Python's time.

Between image and logits every map, mask and weight lies where it lay before, so that the calls of a next inference
on an image of the same size are the same, to the last argument. As a CUDA graph does, a recording repeats them.
"""
from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_int, c_void_p
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bdsa.sparse.build import library


class _Call(ctypes.Structure):
    _fields_ = [("function", c_void_p), ("operation", c_void_p), ("threads", c_int)]


@dataclass
class Recording:
    """Calls in order.

    Attributes:
        calls: functions of the native library, the operations that they ran, and with how many threads.
        kept: the tensors that the operations point into.
        complete: whether all that ran was recorded; what runs as PyTorch operators cannot be.
    """
    calls: list[tuple[Callable[..., Any], ctypes.Structure, int]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    complete: bool = True
    _array: Any = None

    def play(self) -> None:
        """Repeat the calls."""
        if self._array is None:
            rows = [(ctypes.cast(f, c_void_p).value, ctypes.addressof(o), threads) for f, o, threads in self.calls]
            self._array = (_Call * len(rows))(*rows)
        library().bdsa_play(self._array, len(self._array))


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
