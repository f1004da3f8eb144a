"""Build the native kernels at first use with the system's C++ compiler, and keep them, as torch.compile does.

The library is plain C to the outside, so that it needs neither torch's headers nor a minute: two seconds,
once per machine, source and compiler. `BDSA_KERNELS` chooses the instructions:

    native      (default) all that this processor has
    amx         tiles of bfloat16, and AVX-512
    avx512bf16  dot products of bfloat16, and AVX-512
    avx512      x86-64-v4; avx2: x86-64-v3; plain: the least that every processor of its kind has
    off         no native kernels: everything runs as PyTorch operators
"""
from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bdsa.errors import UserError, unknown
from bdsa.machine import processor_flags

SOURCES = Path(__file__).parent / "native"
HOSTS = Path(__file__).parent / "hosts"  # what other programs' interfaces want
AVX512 = ["-march=x86-64-v4"]
WITHOUT_AMX = ["-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8"]
MACHINE_FLAGS = {"native": ["-march=native"], "amx": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
                 "avx512bf16": [*AVX512, "-mavx512bf16"], "avx512": AVX512, "avx2": ["-march=x86-64-v3"], "plain": []}
NEEDED = {"amx": ["amx_bf16", "avx512_bf16"], "avx512bf16": ["avx512_bf16"], "avx512": ["avx512f"], "avx2": ["avx2"]}
CHOICES = (*MACHINE_FLAGS, "off")
# Hidden: several libraries of these kernels in one process share nothing, so that each can be unloaded.
BASE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fvisibility=hidden"]


class Unavailable(Exception):
    """The native kernels cannot be had; the message says in one line what is missing."""


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels, built if need be.

    Raises:
        Unavailable: there is no compiler, it failed, or the user switched them off.
        UserError: for a value of BDSA_KERNELS that is none of its choices, or that this processor cannot run.
    """
    return ctypes.CDLL(str(build(*chosen())))


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
    compiler, flags = _compiler(), [*BASE_FLAGS, *MACHINE_FLAGS[choice], *further]
    folder = cache_folder() / _key(compiler, flags, SOURCES)
    return _made(folder / "bdsa_kernels.so", [
        [[compiler, *flags, *threading, "-c", str(SOURCES / "library.cpp"), "-o", "{folder}/bdsa_kernels.o"],
         [compiler, "-shared", *threading, "{folder}/bdsa_kernels.o", "-o", "{folder}/bdsa_kernels.so"]]
        for threading in (["-fopenmp"], [])])  # a compiler without OpenMP still gives kernels for one thread


def extension(name: str, further: Sequence[str] = (), link: Sequence[str] = ()) -> Path:
    """A library of the kernels and `hosts/NAME.cpp`, by which other programs run them, built as they are.

    Args:
        name: of the source.
        further: flags for it.
        link: flags for the library.

    Raises:
        Unavailable, UserError: as `library`.
    """
    choice, machine = chosen()
    kernels = build(choice, machine).with_suffix(".o")
    compiler, flags = _compiler(), [*BASE_FLAGS, "-O1", *further]
    threading = ["-fopenmp"] if ctypes.CDLL(str(kernels.with_suffix(".so"))).bdsa_parallel() else []
    folder = cache_folder() / _key(compiler, [kernels.parent.name, *flags, *link], HOSTS)
    target = folder / f"bdsa_{name}.so"
    made = "{folder}/" + target.name
    return _made(target, [[[compiler, *flags, *threading, "-shared", str(HOSTS / f"{name}.cpp"), str(kernels),
                            "-o", made, "-Wl,-Bsymbolic", *link]]])  # it calls its own kernels


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None or shutil.which(compiler) is None:
        raise Unavailable(f"no C++ compiler ({compiler or 'g++, clang++'}) on this machine: install one, for example "
                          f"apt install g++")
    return compiler


def _made(target: Path, ways: list[list[list[str]]]) -> Path:
    """A file, made by the first way that works: commands with {folder} for where they write, all of which is kept."""
    if target.exists():
        return target
    folder, failure = target.parent, ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # whole or not at all: others may build it too
            for commands in ways:
                failed = next((said for command in commands if (said := _failure(command, scratch)) is not None), None)
                if failed is None:
                    for path in sorted(Path(scratch).iterdir(), key=lambda path: path == Path(scratch) / target.name):
                        os.replace(path, folder / path.name)  # the target last: where it is, all is
                    return target
                failure = failure or failed
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the kernels could not be built in {folder}: {error}") from error
    raise Unavailable(f"{ways[0][0][0]} could not build the kernels: {_error(failure)}")


def _failure(command: list[str], folder: str) -> str | None:
    """What a command says that failed, or None."""
    done = subprocess.run([part.replace("{folder}", folder) for part in command], capture_output=True, text=True,
                          timeout=600)
    return None if done.returncode == 0 else done.stderr.strip()


def _error(said: str) -> str:
    """The first error of what a compiler said."""
    lines = said.splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0])


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
