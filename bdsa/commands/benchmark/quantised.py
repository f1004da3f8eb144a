"""Dense engines in int8: ONNX Runtime's static quantisation and OpenVINO's through NNCF.

They stand on their own: int8 is no float precision, and what it costs in accuracy depends on the network and on its
calibration. Weights are quantised per channel, maps per layer by their range on the calibration images.
"""
from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.commands.benchmark.dense_engine import DenseEngine, fastest_way, logits_of
from bdsa.commands.benchmark.engines import in_a_line, not_installed
from bdsa.commands.benchmark.graph_engines import IMAGES, array, exported, onnx_session, openvino_engine
from bdsa.errors import UserError

NEEDS = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino", "nncf")}
# What ONNX Runtime computes in int8, the rest staying in float32: which is faster depends on the network.
PRODUCTS = ["Conv", "MatMul", "Gemm"]
ONNX_WAYS = {"static, products alone": PRODUCTS,
             "static, products and sums": [*PRODUCTS, "Add", "Relu", "MaxPool", "GlobalAveragePool"]}


def lacking_int8() -> list[str]:
    """Why some engines have no int8 form here, a sentence each."""
    return [f"{name} in int8 is left out, {' and '.join(lacking)} not being installed: pip install 'bdsa[peers]'"
            for name, needed in NEEDS.items() if (lacking := not_installed(needed))]


def int8_engines(network: nn.Module, inputs: Sequence[Tensor], calibration: Tensor) -> list[DenseEngine]:
    """The engines that are installed, with the distance of their logits from float32's.

    Args:
        network: a plain network in eval mode.
        inputs: images [B, 3, H, W] each, all of one shape.
        calibration: images [N, 3, H, W], N at least B, to find the ranges of maps by.

    Raises:
        UserError: for an engine that cannot take the network, or gives logits that are not finite.
    """
    network = network.to(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    expected = logits_of(lambda number: network(inputs[number]), len(inputs))
    batches = list(calibration[:len(calibration) // len(inputs[0]) * len(inputs[0])].split(len(inputs[0])))
    engines = []
    for name, build in BUILDERS.items():
        if not_installed(NEEDS[name]):
            continue
        try:
            with _quietly():
                engine = build(network, inputs, batches)
            logits = logits_of(engine.run, len(inputs))
        except Exception as error:  # each engine has exceptions of its own
            raise UserError(f"{name} cannot quantise this network ({in_a_line(error)}): leave out "
                            f"latency.int8") from error
        if not bool(logits.isfinite().all()):
            raise UserError(f"{name} in int8 gives logits that are not finite: its time would say nothing")
        engine.logits_apart = float((logits - expected).abs().max() / (expected.max() - expected.min()))
        engines.append(engine)
    return engines


def _onnxruntime(network: nn.Module, inputs: Sequence[Tensor], calibration: Sequence[Tensor]) -> DenseEngine:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """The calibration images, batch after batch."""

        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {IMAGES: array(x)}

    runs = {}
    with exported(network, inputs[0]) as path:
        ready, small = (str(Path(path).with_name(name)) for name in ("ready.onnx", "int8.onnx"))
        quant_pre_process(path, ready, skip_symbolic_shape=True)
        for way, operators in ONNX_WAYS.items():
            quantization.quantize_static(ready, small, Reader(), quant_format=quantization.QuantFormat.QDQ,
                                         op_types_to_quantize=operators, per_channel=True,
                                         activation_type=quantization.QuantType.QUInt8,
                                         weight_type=quantization.QuantType.QInt8)
            runs[way] = onnx_session(small, inputs)
    way = fastest_way(runs)
    return DenseEngine("onnxruntime", "int8", runs[way], way)


def _openvino(network: nn.Module, inputs: Sequence[Tensor], calibration: Sequence[Tensor]) -> DenseEngine:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    with exported(network, inputs[0]) as path:
        model = openvino.Core().read_model(path)
        images = nncf.Dataset([array(x) for x in calibration])
        small = nncf.quantize(model, images, subset_size=len(calibration), preset=nncf.QuantizationPreset.MIXED)
        engine = openvino_engine(small, inputs)
    return DenseEngine("openvino", "int8", engine.run, f"NNCF, the rest in {engine.precision}")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the quantisers print of their progress is not a user's."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


BUILDERS: dict[str, Callable[[nn.Module, Sequence[Tensor], Sequence[Tensor]], DenseEngine]] = {
    "onnxruntime": _onnxruntime, "openvino": _openvino}
