"""Start Triton kernels, or let somebody else see what would be started."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton

from bdsa.sparse.gpu.device import interpreted, processors

# Sizes of maps, which differ from call to call: a kernel is compiled once for all of them.
SIZES = ("height", "width", "out_height", "out_width", "stride", "p_height", "p_width", "p_stride", "d_height",
         "d_width", "d_stride", "panel", "column", "columns", "chunks", "programs", "part", "size", "most", "group")
PROGRAMS = 4  # a multiprocessor, at most: what is persistent has as many as can run at once, or a few more

Watcher = Callable[[Any, tuple, dict[str, Any]], None]  # kernel, its arguments and constants, warps and stages
_watcher: Watcher | None = None


def kernel(function: Callable[..., None]) -> Any:
    """A Triton kernel that is not compiled anew for every size of a map."""
    return triton.jit(function, do_not_specialize=SIZES)


def launch(function: Any, programs: tuple[int, ...], *arguments: Any, warps: int = 4, stages: int = 2,
           **constants: Any) -> None:
    """Start a kernel.

    Args:
        function: the kernel.
        programs: the grid.
        arguments: tensors, numbers or None, in the kernel's order.
        warps, stages: of a program.
        constants: its constexpr parameters.
    """
    if _watcher is not None:
        _watcher(function, arguments, {**constants, "num_warps": warps, "num_stages": stages})
    elif 0 in programs:
        return  # a batch without images
    elif interpreted():
        function[programs](*arguments, **constants)
    else:
        function[programs](*arguments, **constants, num_warps=warps, num_stages=stages)


def persistent(device: torch.device, tiles: int) -> tuple[int]:
    """The grid of a kernel whose programs go on from tile to tile, of which there are at most so many."""
    most = processors(device) * (1 if interpreted() else PROGRAMS)
    return (max(1, min(most, tiles)),)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within it no kernel starts; the watcher is told of each."""
    global _watcher
    _watcher, before = watcher, _watcher
    try:
        yield
    finally:
        _watcher = before
