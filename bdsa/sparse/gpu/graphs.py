"""A whole inference as one CUDA graph: captured when an image of its size comes again, then replayed.

A capture takes as long as many inferences and keeps memory. What comes once, as a budget on its way past, is not worth
one; and where more take turns than are kept, as the rests of batches that a cascade looks at again, those that are
kept stay while they are used, so that not every one is captured anew.
"""
from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bdsa.sparse.gpu.device import current
from bdsa.sparse.workspace import RECORDINGS, Recent

log = logging.getLogger(__name__)
_one = threading.Lock()  # PyTorch captures one graph at a time in a process
SEEN = 256  # inferences of which it is known that they came once
UNUSED = 100  # inferences that a graph is not of before another may take its place
Work = Callable[[Tensor, list[Tensor]], Tensor]  # image, given masks -> logits


@functools.cache
def _stream(device: torch.device, caller: int) -> torch.cuda.Stream:
    """Where work on a device is captured: PyTorch's own stream is of the device that was captured on first.

    Args:
        caller: the stream on which it is replayed. What a library keeps for a stream, such as cuBLAS its workspace, is
            in the graph; graphs that may be replayed at one time must not share it.
    """
    return torch.cuda.Stream(device)


@contextmanager
def captured(graph: torch.cuda.CUDAGraph, device: torch.device) -> Iterator[None]:
    """Within it work on a device becomes a graph. Other threads go on working, but for their captures."""
    stream = _stream(device, torch.cuda.current_stream(device).cuda_stream)
    with _one, current(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        yield


@dataclass
class Captured:
    """A graph, and the memory that it begins and ends in: image, given masks, logits."""
    graph: torch.cuda.CUDAGraph
    image: Tensor
    masks: list[Tensor]
    logits: Tensor


@dataclass
class _Kept:
    """A graph, or None where there can be none, and the number of the inference that it was of last."""
    captured: Captured | None
    used: int


def capture(work: Work, image: Tensor, masks: Sequence[Tensor]) -> Captured:
    """Capture work on tensors like these. It has run before: all is compiled, and no library starts for the first time.

    Raises:
        RuntimeError: if something on the way cannot be captured, such as what waits for the device.
    """
    image, rooms = image.clone(), [mask.clone() for mask in masks]
    graph = torch.cuda.CUDAGraph()
    with captured(graph, image.device):
        logits = work(image, rooms)
    return Captured(graph, image, rooms, logits)


class Graphs(threading.local):
    """Graphs by what they are of, a set a thread."""

    def __init__(self, make: Callable[[Work, Tensor, Sequence[Tensor]], Captured] = capture) -> None:
        self.kept, self.seen = Recent(RECORDINGS), Recent(SEEN)
        self.make, self.number = make, 0

    def run(self, key: Hashable, work: Work, image: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Logits of memory of their own; the graph of that key is made when it comes again, if there is room.

        Args:
            key: shapes and types of image and masks, the stream, and all else that the work depends on.
        """
        self.number += 1
        kept: _Kept | None = self.kept.find(key)
        if kept is not None:
            kept.used = self.number
        if kept is not None and kept.captured is not None:
            return _replayed(kept.captured, image, masks)
        logits = work(image, list(masks))
        if key not in self.seen:
            self.seen.keep(key, None)
        elif kept is None and self._has_room(image):
            self.kept.keep(key, _Kept(self._made(work, image, masks), self.number))
        return logits

    def _has_room(self, image: Tensor) -> bool:
        """Whether another graph may be kept, in an unused one's place if need be."""
        if len(self.kept) < self.kept.limit:
            return True
        if self.number - next(iter(self.kept.values())).used < UNUSED:
            return False
        if image.is_cuda:  # its memory may be somebody else's as soon as it is gone
            torch.cuda.synchronize(image.device)
        return True

    def _made(self, work: Work, image: Tensor, masks: Sequence[Tensor]) -> Captured | None:
        """The graph, or None where there can be none: then the work runs as it is, each time."""
        try:
            with torch.inference_mode(False), torch.no_grad():  # its memory outlives the caller's mode
                return self.make(work, image, masks)
        except RuntimeError as error:
            log.warning(f"an inference runs without a CUDA graph, kernel by kernel: {str(error).splitlines()[0]}")
            return None


def _replayed(captured: Captured, image: Tensor, masks: Sequence[Tensor]) -> Tensor:
    captured.image.copy_(image)
    for room, mask in zip(captured.masks, masks, strict=True):
        room.copy_(mask)
    captured.graph.replay()
    return captured.logits.clone()
