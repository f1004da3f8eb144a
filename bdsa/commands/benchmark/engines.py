"""The dense engines to beat: the same network the way that a user in a hurry would run it.

Each takes a plain timm network in eval mode and inputs on the CPU, and uses torch's number of threads. Each runs at its
own best setting for this processor, and again held to float32 where that is another one:

    eager        PyTorch, channels-last; in bfloat16 a copy of the network or autocast, whichever is faster
    folded       likewise, batch norms folded into the convolutions
    compile      torch.compile; in bfloat16 of a copy of the network
    frozen       likewise, with the weights as constants (inductor's `freezing`), which packs and folds them
    onnxruntime  ONNX Runtime, which has no bfloat16 on x86 processors
    openvino     OpenVINO, optimised for latency, at the precision that it takes by itself
"""
from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from bdsa.commands.benchmark import graph_engines, pytorch_engines
from bdsa.commands.benchmark.dense_engine import DenseEngine, logits_of
from bdsa.errors import UserError
from bdsa.machine import has_compiler

BUILDERS: dict[str, Callable[[nn.Module, Sequence[Tensor], bool], list[DenseEngine]]] = {
    "eager": pytorch_engines.eager, "folded": pytorch_engines.folded, "compile": pytorch_engines.compiled,
    "frozen": pytorch_engines.frozen, "onnxruntime": graph_engines.onnxruntime, "openvino": graph_engines.openvino}
NEEDS = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
TOLERANCE = 1e-3  # of the logits' spread: engines order their sums differently
ROUNDED = 0.1     # likewise, in sixteen bits: more apart is no rounding


def missing(name: str) -> str | None:
    """Why an engine cannot run here, and what to do about it; None where it can."""
    if lacking := not_installed(NEEDS.get(name, ())):
        return f"{name} is left out, {' and '.join(lacking)} not being installed: pip install 'bdsa[peers]'"
    if name in ("compile", "frozen") and not has_compiler():
        return f"{name} is left out, there being no C++ compiler: install g++ or clang++"
    return None


def not_installed(packages: Iterable[str]) -> list[str]:
    """Those of the packages that are not here."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def dense_engines(names: Sequence[str], network: nn.Module, inputs: Sequence[Tensor],
                  bfloat16: bool = False) -> list[DenseEngine]:
    """Build engines by name and compare their logits with PyTorch's in float32.

    Args:
        names: some of `BUILDERS`, none of them `missing`. One that has nothing to do for this network (folded,
            without batch norms) is left out.
        network: a plain network in eval mode.
        inputs: images [B, 3, H, W] each, all of one shape.
        bfloat16: whether PyTorch's engines run in bfloat16 too. Without native products they would crawl.

    Raises:
        UserError: for an engine that disagrees with PyTorch, or that cannot take the network.
    """
    torch._dynamo.reset()  # of a class it compiles a few forms, and then runs the others as they are
    network = network.to(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    expected = logits_of(lambda number: network(inputs[number]), len(inputs))
    engines = []
    for name in names:
        try:
            built = BUILDERS[name](network, inputs, bfloat16)
            found = [logits_of(engine.run, len(inputs)) for engine in built]
        except Exception as error:  # each engine has exceptions of its own
            raise UserError(f"{name} cannot run this network ({in_a_line(error)}): leave it out of "
                            f"latency.peers") from error
        for engine, logits in zip(built, found):
            engine.logits_apart = check_agreement(engine.title, logits, expected, tolerance(engine.precision))
        engines += built
    return engines


def in_a_line(error: Exception) -> str:
    """The first line of an error that says something: OpenVINO's begin with where they come from."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return (lines or [type(error).__name__])[0].strip()


def tolerance(precision: str) -> float:
    """How far apart logits may be at a precision, as a share of their spread."""
    return TOLERANCE if precision == "float32" else ROUNDED


def check_agreement(name: str, logits: Tensor, expected: Tensor, within: float = TOLERANCE) -> float:
    """The largest difference of logits from the expected ones, as a share of the expected ones' spread.

    Raises:
        UserError: if it is more than `within`.
    """
    spread = float(expected.max() - expected.min())
    apart = float((logits - expected).abs().max())
    if not apart <= within * spread:  # not a number is apart too
        raise UserError(f"{name} gives other logits (apart by {apart:.2g}, and they spread over {spread:.2g}): its "
                        f"time would say nothing")
    return apart / spread if spread else 0.0
