"""How the native kernels are compiled: flags, commands and files. Needs no PyTorch, as a wheel is built without it."""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
HOSTS = Path(__file__).parent / "hosts"  # what other programs' interfaces want
AVX512 = ["-march=x86-64-v4"]
PAIRS = [*AVX512, "-mavx512bf16", "-mavx512vnni"]
MACHINE_FLAGS = {"native": ["-march=native"],
                 "amx": [*PAIRS, "-mavx512vbmi", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
                 "avx512bf16": PAIRS, "avx512": AVX512, "avx2": ["-march=x86-64-v3"], "plain": []}
# Hidden: several libraries of these kernels in one process share nothing, so that each can be unloaded.
BASE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-predictive-commoning",
              "-fvisibility=hidden"]

Commands = list[list[str]]  # {folder}: where they write


class Unavailable(Exception):
    """The native kernels cannot be had; the message says in one line what is missing."""


def compiler() -> str:
    """The C++ compiler.

    Raises:
        Unavailable: there is none.
    """
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if found is None or shutil.which(found) is None:
        raise Unavailable(f"no C++ compiler ({found or 'g++, clang++'}) on this machine: install one, for example "
                          f"apt install g++, or install a wheel that brings the kernels (docs/export.md)")
    return found


def kernels(by: str, flags: Sequence[str]) -> list[Commands]:
    """Ways to compile bdsa_kernels.o and .so; a compiler without OpenMP still gives kernels for one thread."""
    return [[[by, *flags, *threading, "-c", str(SOURCES / "library.cpp"), "-o", "{folder}/bdsa_kernels.o"],
             [by, "-shared", *threading, "{folder}/bdsa_kernels.o", "-o", "{folder}/bdsa_kernels.so"]]
            for threading in (["-fopenmp"], [])]


def host(by: str, name: str, kernels_object: Path, flags: Sequence[str], link: Sequence[str], parallel: bool
         ) -> Commands:
    """What compiles bdsa_NAME.so: the kernels and `hosts/NAME.cpp`, by which other programs run them."""
    threading = ["-fopenmp"] if parallel else []
    return [[by, *BASE_FLAGS, "-O1", *flags, *threading, "-shared", str(HOSTS / f"{name}.cpp"), str(kernels_object),
             "-o", f"{{folder}}/bdsa_{name}.so", "-Wl,-Bsymbolic", *link]]  # it calls its own kernels


def torch_flags(torch: Path) -> tuple[list[str], list[str]]:
    """Flags and libraries for `hosts/torch.cpp`, of the PyTorch in a folder."""
    include = [torch / "include", torch / "include/torch/csrc/api/include"]
    return (["-std=c++20", *(f"-I{folder}" for folder in include)],
            [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"])


def made(target: Path, ways: list[Commands]) -> Path:
    """A file, made by the first way that works unless it is there; all that the commands write is kept.

    Raises:
        Unavailable: none of them worked.
    """
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
