"""Build the native kernels at first use with the system's C++ compiler, and keep them, as torch.compile does.

The library is plain C to the outside, so that it needs neither torch's headers nor a minute: two seconds,
once per machine, source and compiler. A wheel may bring it along (`packed`). `BDSA_KERNELS` chooses the instructions:

    native      (default) all that this processor has
    amx         tiles of bfloat16 and int8, and AVX-512
    avx512bf16  dot products of bfloat16 and int8 (VNNI), and AVX-512
    avx512      x86-64-v4; avx2: x86-64-v3; plain: the least that every processor of its kind has
    off         no native kernels: everything runs as PyTorch operators
"""
from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from bdsa.errors import UserError, unknown
from bdsa.machine import processor_flags
from bdsa.sparse import compiling, packed
from bdsa.sparse.compiling import BASE_FLAGS, HOSTS, MACHINE_FLAGS, SOURCES, Unavailable

WITHOUT_AMX = ["-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8"]
NEEDED = {"amx": ["amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512vbmi"],
          "avx512bf16": ["avx512_bf16", "avx512_vnni"], "avx512": ["avx512f"], "avx2": ["avx2"]}
CHOICES = (*MACHINE_FLAGS, "off")


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels: those of the wheel if they are all that this processor can do, else built if need be.

    Raises:
        Unavailable: there is no compiler, it failed, or the user switched them off.
        UserError: for a value of BDSA_KERNELS that is none of its choices, or that this processor cannot run.
    """
    choice, machine = chosen()
    levels = _levels(choice, machine)
    least = choice == "native" and levels[0] == packed.LEVELS[-1]  # a compiler may know more instructions
    if not least and (loaded := _loaded(levels[:1])) is not None:
        return loaded
    try:
        return ctypes.CDLL(str(build(choice, machine)))
    except Unavailable:
        if (loaded := _loaded(levels)) is not None:
            return loaded
        raise


def _levels(choice: str, machine: Sequence[str]) -> list[str]:
    """The levels of packed libraries that a choice allows here, the best first."""
    if choice != "native":
        return [choice]
    return [level for level in packed.levels() if not missing(level) and not (level == "amx" and machine)]


def _loaded(levels: Sequence[str]) -> ctypes.CDLL | None:
    """The first packed library that this system can load."""
    for level in levels:
        if (path := packed.find(level, "kernels")) is not None:
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # made for a newer system
                continue
    return None


def chosen() -> tuple[str, tuple[str, ...]]:
    """One of MACHINE_FLAGS and further flags, as BDSA_KERNELS and this machine want it; raises as `library`."""
    choice = os.environ.get("BDSA_KERNELS", "native")
    if choice not in CHOICES:
        raise unknown("value of BDSA_KERNELS", choice, CHOICES)
    if choice == "off":
        raise Unavailable("BDSA_KERNELS=off")
    if lacking := missing(choice):
        raise UserError(f"BDSA_KERNELS={choice} needs {lacking}, which this processor does not have: leave it out, and "
                        f"all that it has is used")
    if choice in ("native", "amx") and not missing("amx") and not _tiles_allowed():
        if choice == "amx":
            raise UserError("BDSA_KERNELS=amx: the system does not let programs use the tiles of AMX")
        return choice, tuple(WITHOUT_AMX)
    return choice, ()


def missing(choice: str) -> str | None:
    """What this processor lacks for a value of BDSA_KERNELS, as /proc/cpuinfo names it; None where it can run it."""
    has = processor_flags().split()
    return next((flag for flag in NEEDED.get(choice, []) if flag not in has), None)


def _tiles_allowed() -> bool:
    """Ask the system, once a process, for the registers of AMX; Linux wants that before their first use."""
    ask_permission, tile_data = 0x1023, 18  # arch_prctl's ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return ctypes.CDLL(None).syscall(158, ask_permission, tile_data) == 0


def build(choice: str, further: Sequence[str] = ()) -> Path:
    """Compile the kernels for one of MACHINE_FLAGS, and further flags, unless that was done before; return the file.

    Raises:
        Unavailable: there is no compiler, or it failed.
    """
    by, flags = compiling.compiler(), [*BASE_FLAGS, *MACHINE_FLAGS[choice], *further]
    folder = cache_folder() / _key(by, flags, SOURCES)
    return compiling.made(folder / "bdsa_kernels.so", compiling.kernels(by, flags))


def extension(name: str, further: Sequence[str] = (), link: Sequence[str] = (), version: str | None = None) -> Path:
    """A library of the kernels and `hosts/NAME.cpp`, by which other programs run them: the wheel's, or built.

    Args:
        name: of the source.
        further: flags for it.
        link: flags for the library.
        version: of PyTorch, if it has its interface.

    Raises:
        Unavailable, UserError: as `library`.
    """
    choice, machine = chosen()
    used = Path(library()._name)
    if used.is_relative_to(packed.FOLDER):  # programs are packed for these kernels
        level = next(each for each in _levels(choice, machine) if packed.find(each, "kernels") == used)
        if (brought := packed.find(level, name, version)) is not None:
            return brought
        choice, machine = level, ()
    kernels = build(choice, machine).with_suffix(".o")
    by, flags = compiling.compiler(), [*BASE_FLAGS, "-O1", *further]
    parallel = ctypes.CDLL(str(kernels.with_suffix(".so"))).bdsa_parallel()
    folder = cache_folder() / _key(by, [kernels.parent.name, *flags, *link], HOSTS)
    return compiling.made(folder / f"bdsa_{name}.so",
                          [compiling.host(by, name, kernels, further, link, bool(parallel))])


def cache_folder() -> Path:
    """Where built kernels are kept: $BDSA_CACHE, else the user's cache folder."""
    if asked := os.environ.get("BDSA_CACHE"):
        if Path(asked).exists() and not Path(asked).is_dir():
            raise UserError(f"BDSA_CACHE={asked} is a file: name a folder")
        return Path(asked)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "bdsa"


def _key(compiler: str, flags: list[str], sources: Path) -> str:
    """A name for what a folder of sources, this compiler and this processor give."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    content = [version, *flags, platform.machine(), torch.backends.cpu.get_cpu_capability(), processor_flags()]
    content += [path.name + path.read_text() for path in sorted(sources.iterdir()) if path.suffix in (".h", ".cpp")]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]
