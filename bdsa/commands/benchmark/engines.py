"""The dense engines to beat: the same network the way that a user in a hurry would run it.

Each takes a plain timm network in eval mode and inputs on the CPU, and uses torch's number of threads, in float32.

    eager        PyTorch, channels-last
    folded       likewise, batch norms folded into the convolutions
    compile      torch.compile
    frozen       torch.compile with the weights as constants (inductor's `freezing`), which packs and folds them
    onnxruntime  ONNX Runtime
    openvino     OpenVINO, optimised for latency
"""
from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bdsa.errors import UserError
from bdsa.machine import has_compiler
from bdsa.models.dense_copy import fold_batch_norms
from bdsa.sparse.latency import Engine

NEEDS = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
TOLERANCE = 1e-3  # of the logits' spread: engines order their sums differently


def missing(name: str) -> str | None:
    """Why an engine cannot run here, and what to do about it; None where it can."""
    lacking = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
    if lacking:
        return f"{name} is left out, {' and '.join(lacking)} not being installed: pip install 'bdsa[peers]'"
    if name in ("compile", "frozen") and not has_compiler():
        return f"{name} is left out, there being no C++ compiler: install g++ or clang++"
    return None


def dense_engines(names: Sequence[str], network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Engine]:
    """Build engines by name and compare their logits with PyTorch's.

    Args:
        names: some of `BUILDERS`, none of them `missing`. One that has nothing to do for this network (folded,
            without batch norms) is left out.
        network: a plain network in eval mode.
        inputs: images [B, 3, H, W] each, all of one shape.

    Raises:
        UserError: for an engine that disagrees with PyTorch on the first input, or that cannot take the network.
    """
    network = network.to(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    with torch.inference_mode():
        expected = network(inputs[0])
    engines = {}
    for name in names:
        try:
            engine = BUILDERS[name](network, inputs)
            if engine is None:
                continue
            with torch.inference_mode():
                found = engine(0)
        except Exception as error:  # each engine has exceptions of its own
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{name} cannot run this network ({line}): leave it out of latency.peers") from error
        check_agreement(name, torch.as_tensor(found), expected)
        engines[name] = engine
    return engines


def check_agreement(name: str, logits: Tensor, expected: Tensor) -> None:
    """Raise UserError if logits are not the expected ones, within `TOLERANCE` of their spread."""
    spread = float(expected.max() - expected.min())
    apart = float((logits - expected).abs().max())
    if not apart <= TOLERANCE * spread:  # not a number is apart too
        raise UserError(f"{name} gives other logits (apart by {apart:.2g}, and they spread over {spread:.2g}): its "
                        f"time would say nothing")


def _eager(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    return lambda number: network(inputs[number])


def _folded(network: nn.Module, inputs: Sequence[Tensor]) -> Engine | None:
    folded = fold_batch_norms(network)
    return None if folded is None else _eager(folded, inputs)


def _compile(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    return _eager(torch.compile(network, dynamic=False), inputs)


def _frozen(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    # The option in `options` makes it another compiler in dynamo's eyes: it would else run the graph of _compile.
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})
    with torch._inductor.config.patch(freezing=True), torch.inference_mode():  # dynamo looks at the global one
        compiled(inputs[0])
    return _eager(compiled, inputs)


def _onnxruntime(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with _exported(network, inputs[0]) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays = [x.contiguous(memory_format=torch.contiguous_format).numpy() for x in inputs]
    return lambda number: session.run(None, {"images": arrays[number]})[0]


def _openvino(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": "f32"}  # it would take bfloat16 where the processor has it
    with _exported(network, inputs[0]) as path:
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    arrays = [x.contiguous(memory_format=torch.contiguous_format).numpy() for x in inputs]
    return lambda number: request.infer({0: arrays[number]}, share_inputs=True, share_outputs=True)[0]


@contextlib.contextmanager
def _exported(network: nn.Module, example: Tensor) -> Iterator[str]:
    """An ONNX file of the network at the example's shape, for as long as the block lasts."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor, which needs one package more
        log.setLevel(logging.ERROR)
        path = str(Path(folder) / "dense.onnx")
        try:
            torch.onnx.export(network, (example.contiguous(memory_format=torch.contiguous_format),), path,
                              input_names=["images"], output_names=["logits"], dynamo=False)
        finally:
            log.setLevel(level)
        yield path


BUILDERS: dict[str, Callable[[nn.Module, Sequence[Tensor]], Engine | None]] = {
    "eager": _eager, "folded": _folded, "compile": _compile, "frozen": _frozen, "onnxruntime": _onnxruntime,
    "openvino": _openvino}
