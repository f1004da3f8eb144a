"""Dense engines that run a graph of their own: ONNX Runtime and OpenVINO."""
from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.commands.benchmark.dense_engine import DenseEngine
from bdsa.sparse.latency import Engine

IMAGES = "images"  # the name of a graph's input
PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}  # OpenVINO's names


def onnxruntime(network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    """ONNX Runtime in float32, the only float precision that its kernels for x86 have."""
    with exported(network, inputs[0]) as path:
        return [DenseEngine("onnxruntime", "float32", onnx_session(path, inputs))]


def onnx_session(path: str, inputs: Sequence[Tensor]) -> Engine:
    """An engine that runs an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays = [array(x) for x in inputs]
    return lambda number: session.run(None, {IMAGES: arrays[number]})[0]


def openvino(network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    """OpenVINO at the precision that it takes by itself for this processor, and held to float32 if that is another."""
    import openvino

    with exported(network, inputs[0]) as path:
        model = openvino.Core().read_model(path)
        engines = [openvino_engine(model, inputs)]
        if engines[0].precision != "float32":
            engines.insert(0, openvino_engine(model, inputs, {"INFERENCE_PRECISION_HINT": "f32"}))
    return engines


def openvino_engine(model: Any, inputs: Sequence[Tensor], settings: dict[str, str] | None = None) -> DenseEngine:
    """An engine that runs an OpenVINO model, at the precision that OpenVINO says it takes.

    Args:
        model: openvino.Model.
        inputs: images.
        settings: that are asked of it beyond latency and threads.
    """
    import openvino

    asked = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(), **(settings or {})}
    compiled = openvino.Core().compile_model(model, "CPU", asked)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    request, arrays = compiled.create_infer_request(), [array(x) for x in inputs]

    def run(number: int) -> Any:
        return request.infer({0: arrays[number]}, share_inputs=True, share_outputs=True)[0]

    return DenseEngine("openvino", PRECISIONS.get(taken, taken), run)


def array(x: Tensor) -> Any:
    """Images as an array in the order of an ONNX graph."""
    return x.contiguous(memory_format=torch.contiguous_format).numpy()


@contextlib.contextmanager
def exported(network: nn.Module, example: Tensor) -> Iterator[str]:
    """An ONNX file of the network at the example's shape, for as long as the block lasts."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor, which needs one package more
        log.setLevel(logging.ERROR)
        path = str(Path(folder) / "dense.onnx")
        try:
            torch.onnx.export(network, (example.contiguous(memory_format=torch.contiguous_format),), path,
                              input_names=[IMAGES], output_names=["logits"], dynamo=False)
        finally:
            log.setLevel(level)
        yield path
