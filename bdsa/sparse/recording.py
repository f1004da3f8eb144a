"""Record the calls of the native kernels of one inference, and play them again: a network's without Python's time.

Between image and logits every map, mask and weight lies where it lay before, so that the calls of a next inference
on an image of the same size are the same, to the last argument. As a CUDA graph does, a recording repeats them.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Recording:
    """Calls in order.

    Attributes:
        calls: functions of the native library and their arguments.
        kept: the tensors that they point into.
        complete: whether all that ran was recorded; what runs as PyTorch operators cannot be.
    """
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    complete: bool = True

    def play(self) -> None:
        """Repeat the calls."""
        for function, arguments in self.calls:
            function(*arguments)


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


def call(function: Callable[..., Any], *arguments: Any, on: tuple[Tensor | None, ...]) -> Any:
    """Call a native function whose arguments point into the tensors `on`."""
    if (recording := _running.recording) is not None:
        recording.calls.append((function, arguments))
        recording.kept += [t for t in on if t is not None]
    return function(*arguments)


def cannot_record() -> None:
    """Say that something ran that is no native call."""
    if _running.recording is not None:
        _running.recording.complete = False
