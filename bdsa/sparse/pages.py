"""Memory of large pages, for what the kernels read and write: a core looks up few addresses instead of thousands.

A ResNet-50's weights are 50 MB of bfloat16, 12,000 pages of 4 KB. Pages of 2 MB are asked for, not enforced: where the
system has none, the memory is like any other.
"""
from __future__ import annotations

import contextlib
import math
import mmap
import threading

import torch
from torch import Tensor

PAGE = 2 << 20
CHUNK = 4 * PAGE  # of memory that tensors share; freed with the last of them
LINE = 64  # bytes that a tensor begins at a multiple of


class _Chunk(threading.local):
    memory: Tensor = torch.empty(0, dtype=torch.uint8)
    used = 0


_chunk = _Chunk()


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU with anything in it, usable in any mode."""
    count = math.prod(shape) * dtype.itemsize
    if not hasattr(mmap, "MADV_HUGEPAGE") or count == 0:
        with torch.inference_mode(False):
            return torch.empty(shape, dtype=dtype)
    if _chunk.used + count > len(_chunk.memory):
        _chunk.memory, _chunk.used = _new(max(CHUNK, count)), 0
    start = _chunk.used
    _chunk.used += -(-count // LINE) * LINE
    with torch.inference_mode(False):
        return _chunk.memory[start:start + count].view(dtype).view(shape)


def placed(tensor: Tensor) -> Tensor:
    """A tensor's copy in such memory, contiguous; on another device than the CPU the tensor there, contiguous."""
    if tensor.device.type != "cpu":
        return tensor.contiguous()
    with torch.inference_mode(False):
        return empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)


def _new(count: int) -> Tensor:
    size = -(-count // PAGE) * PAGE
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with torch.inference_mode(False):
        whole = torch.frombuffer(memory, dtype=torch.uint8)  # which keeps the map
    first = -whole.data_ptr() % PAGE
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return whole[first:first + size]
