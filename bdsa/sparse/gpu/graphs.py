"""A whole inference as one CUDA graph: captured when an image of its size comes again, then replayed.

A capture takes as long as many inferences and keeps memory. What comes once, as the rest of a batch that a cascade
looks at again or a budget on its way past, is not worth one.
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
from bdsa.sparse.workspace import Recent

log = logging.getLogger(__name__)
_one = threading.Lock()  # PyTorch captures one graph at a time in a process
SEEN = 256  # inferences of which it is known that they came once
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
        self.kept, self.seen = Recent(), Recent(SEEN)
        self.make = make

    def run(self, key: Hashable, work: Work, image: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Logits of memory of their own; the graph of that key is made when it comes for the second time.

        Args:
            key: shapes and types of image and masks, the stream, and all else that the work depends on.
        """
        kept: Captured | None = self.kept.find(key)
        if kept is not None:
            kept.image.copy_(image)
            for room, mask in zip(kept.masks, masks, strict=True):
                room.copy_(mask)
            kept.graph.replay()
            return kept.logits.clone()
        logits = work(image, list(masks))
        if key not in self.seen:
            self.seen.keep(key, None)
        elif key not in self.kept:
            if len(self.kept) >= self.kept.limit:
                self._wait(image)  # its memory may be somebody else's as soon as it is gone
            self.kept.keep(key, self._made(work, image, masks))
        return logits

    def _made(self, work: Work, image: Tensor, masks: Sequence[Tensor]) -> Captured | None:
        """The graph, or None where there can be none: then the work runs as it is, each time."""
        try:
            with torch.inference_mode(False), torch.no_grad():  # its memory outlives the caller's mode
                return self.make(work, image, masks)
        except RuntimeError as error:
            log.warning(f"an inference runs without a CUDA graph, kernel by kernel: {str(error).splitlines()[0]}")
            return None

    @staticmethod
    def _wait(image: Tensor) -> None:
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
