"""Compile the GPU's kernels without a GPU, as a network would start them, and look at what became of them.

    PYTHONPATH=. python tests/support/gpu_compile.py resnet50 bfloat16 90     # all of a network's kernels, a line each
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import bdsa
from bdsa.sparse.gpu import device, launch, lists
from bdsa.sparse.gpu.executor import GpuExecutor

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64",
         torch.uint8: "u8"}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Start(NamedTuple):
    """A kernel as it would be compiled."""
    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = {k: v for k, v in self.constants if v is not None}
        return f"{self.kernel.__name__} {' '.join(f'{k}={v}' for k, v in shown.items())}"


class Usage(NamedTuple):
    """Of a program: registers a thread, bytes of stack a thread, bytes of shared memory."""
    registers: int
    stack: int
    shared: int


def starts(name: str, dtype: torch.dtype, batch: int = 1, side: int = 224, processors: int = 1, large: bool = False,
           **args: Any) -> list[Start]:
    """The kernels of one inference of a network, each once.

    Args:
        processors: multiprocessors: the fewer, the larger the tiles for so few rows.
        large: as if every map were too large for one program an image.
    """
    found: dict[Start, None] = {}
    network = bdsa.create_model(name, [0.5], 10, **args).eval()

    def see(kernel: Any, arguments: tuple, constants: dict[str, Any]) -> None:
        given = dict(zip(kernel.arg_names, arguments)) | constants
        signature = {n: kind(v) if n not in constants else "constexpr" for n, v in given.items()}
        fixed = {n: v for n, v in given.items() if signature[n] == "constexpr"}
        found[Start(kernel, tuple(signature.items()), tuple(fixed.items()))] = None

    with torch.inference_mode(), mock.patch.object(device, "INTERPRETED", processors), launch.watched(see), \
            mock.patch.object(lists, "ONE_PROGRAM", 0 if large else lists.ONE_PROGRAM):
        device.processors.cache_clear()
        GpuExecutor.for_maps(network, "b050", dtype)(torch.zeros(batch, 3, side, side, dtype=dtype), None, False)
    device.processors.cache_clear()
    return list(found)


def kind(value: Any) -> str:
    """An argument's type as Triton names it; what is missing is a constant."""
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    return {type(None): "constexpr", int: "i32", float: "fp32"}[type(value)]


def compiled(start: Start, capability: int) -> Usage:
    """What a kernel uses on GPUs of a compute capability, such as 80 or 90."""
    options = {n: v for n, v in start.constants if n in ("num_warps", "num_stages")}
    names = start.kernel.arg_names
    signature = {n: t for n, t in start.signature if n in names}
    signature = {n: signature[n] for n in names}
    constants = {n: v for n, v in start.constants if n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    made = triton.compile(ASTSource(start.kernel, signature, constants, aligned),
                          target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        Path(path).write_bytes(made.asm["cubin"])
        said = subprocess.run([TOOLS / "cuobjdump", "-res-usage", path], capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"{what}:(\d+)", said)[1]) for what in ("REG", "STACK"))
    return Usage(registers, stack, made.metadata.shared)


if __name__ == "__main__":
    name, dtype, capability = sys.argv[1:]
    for each in starts(name, getattr(torch, dtype)):
        print(f"sm_{capability} {compiled(each, int(capability))} {each}", flush=True)
