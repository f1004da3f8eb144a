"""This machine: its processor, the cores to spare, its C++ compiler. Imports nothing heavy."""
from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import shutil
from pathlib import Path

from bdsa.ranks import local_world

MOST_WORKERS = 8  # of the automatic choice: more rarely read faster, and each costs memory


@functools.cache
def processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def processor_flags() -> str:
    """The instruction sets, which -march=native follows; a cache may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16: AMX, AVX512-BF16 or ARM's."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(processor_flags().split())


def spare_cores() -> int:
    """Cores of this machine that may read ahead while one process each trains, at most `MOST_WORKERS`.

    Cores are those that this process may run on, which a container or a scheduler restricts, shared
    among the training's processes on this machine. 0 where there is none to spare.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(cores // local_world() - 1, MOST_WORKERS))


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for what it asks for next; without glibc nothing happens.

    A training step frees the maps that the next one makes anew. Given back to the system each time, they come back as
    empty pages, and a step on a CPU waits for tens of thousands of them. Sources: mallopt(3), malloc.h.
    """
    trim_threshold, mmap_max = -1, -4
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other libraries, or none
        malloc_option = ctypes.CDLL(None).mallopt
        malloc_option(mmap_max, 0)
        malloc_option(trim_threshold, 2 ** 31 - 1)


def compiler_names() -> list[str]:
    """The commands that torch.compile looks for."""
    return [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++", "cl") if name]


def has_compiler() -> bool:
    """Whether there is a C++ compiler for what torch.compile makes of a CPU's work."""
    return any(map(shutil.which, compiler_names()))
