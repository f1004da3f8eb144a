"""Compiled kernels that a wheel brings along, for machines without a compiler: `BDSA_BUILD=1 pip wheel .` packs them.

In `packed/` lies a folder for each level of instructions, named by the system, the processor's kind and what the
sources are, so that a file never serves other sources than those beside it. Needs no PyTorch, as a wheel is built
without it.
"""
from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

from bdsa.sparse.compiling import BASE_FLAGS, HOSTS, MACHINE_FLAGS, SOURCES, compiler, host, kernels, made, torch_flags

FOLDER = Path(__file__).parent / "packed"
LEVELS = ("amx", "avx512bf16", "avx512", "avx2", "plain")  # the best first


def levels() -> tuple[str, ...]:
    """Those that compilers for this kind of processor know."""
    return LEVELS if platform.machine() in ("x86_64", "AMD64") else LEVELS[-1:]


def place(level: str, name: str, torch: str | None = None, folder: Path = FOLDER) -> Path:
    """Where the library bdsa_NAME.so of a level is kept.

    Args:
        torch: the version of PyTorch whose interface it has; it fits all of the same first two numbers.
        folder: of all levels.
    """
    version = "" if torch is None else "-" + ".".join(torch.split("+")[0].split(".")[:2])
    sources = [p for part in (SOURCES, HOSTS) for p in sorted(part.iterdir()) if p.suffix in (".h", ".cpp")]
    content = "\0".join(p.name + p.read_text() for p in sources)
    kind = f"{platform.system()}-{platform.machine()}".lower()
    return folder / f"{level}-{kind}-{hashlib.sha256(content.encode()).hexdigest()[:16]}" / f"bdsa_{name}{version}.so"


def find(level: str, name: str, torch: str | None = None) -> Path | None:
    """The packed library, or None where this installation has none of the sources beside it."""
    if not FOLDER.is_dir():
        return None
    path = place(level, name, torch)
    return path if path.exists() else None


def pack(folder: Path, asked: str, torch: Path | None, version: str) -> list[Path]:
    """Compile libraries for a wheel: kernels and ONNX Runtime's operator, and PyTorch's where PyTorch is at hand.

    Args:
        folder: which takes the place of FOLDER.
        asked: "1" for all levels, or some of them: "avx2,amx".
        torch: PyTorch's folder, if there is one.
        version: of PyTorch.

    Raises:
        SystemExit: for an unknown level.
        Unavailable: there is no compiler, or it failed.
    """
    wanted = levels() if asked == "1" else tuple(asked.split(","))
    if unknown := [level for level in wanted if level not in levels()]:
        sys.exit(f"BDSA_BUILD={asked}: {unknown[0]} is none of {', '.join(levels())}; 1 packs all of them")
    by, written = compiler(), []
    for level in wanted:
        target = place(level, "kernels", folder=folder)
        print(f"packing {target.parent.name}", flush=True)
        made(target, kernels(by, [*BASE_FLAGS, *MACHINE_FLAGS[level]]))
        compiled = target.with_suffix(".o")
        hosts: dict[str, tuple[list[str], list[str]]] = {"onnx": ([], [])}
        hosts |= {} if torch is None else {"torch": torch_flags(torch)}
        for name, (flags, link) in hosts.items():
            ways = [host(by, name, compiled, flags, link, parallel) for parallel in (True, False)]
            library = made(target.parent / f"bdsa_{name}.so", ways)
            written.append(library.rename(place(level, name, version if name == "torch" else None, folder)))
        compiled.unlink()
        written.append(target)
    return written
