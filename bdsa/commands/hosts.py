"""The forms of a sparse network for other programs: how each is written, and how the file is run."""
from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from bdsa.commands.benchmark.engines import not_installed
from bdsa.errors import UserError
from bdsa.runs.files import replacing
from bdsa.sparse.build import Unavailable, extension
from bdsa.sparse.program import Program
from bdsa.sparse.torch_operator import Portable, torch_library

# Images [B, 3, H, W], a budget, and whether no image may exceed it where the file takes that -> logits [B, classes].
Runner = Callable[..., Tensor]
DOMAIN = "bdsa"


@dataclass(frozen=True)
class Host:
    """One form.

    Attributes:
        program_name: of what runs the file.
        write: the file, from a program and images [2, C, H, W] such as it will see, and, not unless it is said, whether
            it takes `per_image` too.
        load: what runs a file.
        library: with the operator, that the file's program loads first.
        needs: packages to be installed.
    """
    program_name: str
    write: Callable[..., None]
    load: Callable[[Path], Runner]
    library: Callable[[], Path]
    needs: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UserError for what is missing here, before any work."""
        if lacking := not_installed(self.needs):
            raise UserError(f"{' and '.join(lacking)} is not installed: pip install {' '.join(lacking)}")

    def put_library(self, folder: Path) -> Path:
        """A copy of the library in a folder; returns it."""
        source = self.library()
        with replacing(folder / source.name) as file, source.open("rb") as made:
            shutil.copyfileobj(made, file)
        return folder / source.name


def _exported(program: Program, images: Tensor, per_image: bool) -> Any:
    """The exported program of torch, for any batch and size."""
    sizes = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    further = [torch.tensor(False)] if per_image else []
    with torch.no_grad():
        return torch.export.export(Portable(program).eval(), (images, torch.tensor(program.budgets[0]), *further),
                                   dynamic_shapes=(sizes, {}, *({} for _ in further)))


def _write_pt2(program: Program, images: Tensor, path: Path, per_image: bool = False) -> None:
    with replacing(path) as file:
        torch.export.save(_exported(program, images, per_image), file,
                          extra_files={"bdsa.json": stated(program, per_image)})


def _load_pt2(path: Path) -> Runner:
    torch_library()
    module = torch.export.load(path).module()
    return lambda x, *asked: module(x, *map(torch.tensor, asked))


def _write_aoti(program: Program, images: Tensor, path: Path, per_image: bool = False) -> None:
    from torch._inductor import aoti_compile_and_package

    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with _quiet("torch.utils.cpp_extension"):
            aoti_compile_and_package(_exported(program, images, per_image), package_path=str(made),
                                     inductor_configs={"aot_inductor.metadata": {DOMAIN: stated(program, per_image)},
                                                       "aot_inductor.compile_wrapper_opt_level": "O0"})  # of one call
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


def _load_aoti(path: Path) -> Runner:
    from torch._inductor import aoti_load_package

    torch_library()
    module = aoti_load_package(str(path))
    return lambda x, *asked: module(x, *map(torch.tensor, asked))


def _write_onnx(program: Program, images: Tensor, path: Path, per_image: bool = False) -> None:
    import onnx
    from onnx import TensorProto, helper

    if program.data.numel() > onnx.checker.MAXIMUM_PROTOBUF:
        raise UserError(f"the network's {program.data.numel() / 1e9:.1f} GB are more than an ONNX file holds: export "
                        f"fewer budgets with budgets.targets=[...]")
    floats, batch = TensorProto.FLOAT, "batch"
    weights = helper.make_tensor("program", TensorProto.UINT8, [program.data.numel()], program.data.numpy().tobytes(),
                                 raw=True)
    further = ["per_image"] if per_image else []
    # Where none is given it is false.
    graph = helper.make_graph(
        [helper.make_node("Network", ["images", "budget", "program", *further], ["logits"], domain=DOMAIN)], "bdsa",
        [helper.make_tensor_value_info("images", floats, [batch, program.channels, "height", "width"]),
         helper.make_tensor_value_info("budget", floats, []),
         *(helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in further)],
        [helper.make_tensor_value_info("logits", floats, [batch, program.classes])],
        [weights, *(helper.make_tensor(name, TensorProto.BOOL, [], [False]) for name in further)])
    model = helper.make_model(graph, producer_name=DOMAIN, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)])
    helper.set_model_props(model, {DOMAIN: stated(program, per_image)})
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _load_onnx(path: Path) -> Runner:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    options.register_custom_ops_library(str(onnx_library()))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    types = {"budget": np.float32, "per_image": np.bool_}
    return lambda x, *asked: torch.from_numpy(session.run(
        None, {"images": x.contiguous(memory_format=torch.contiguous_format).numpy(),
               **{name: np.array(value, types[name]) for name, value in zip(types, asked)}})[0])


def onnx_library() -> Path:
    """The library with the operator for ONNX Runtime, built if need be.

    Raises:
        UserError: where it cannot be built.
    """
    try:
        return extension("onnx")
    except Unavailable as reason:
        raise UserError(f"ONNX Runtime's operator needs the native kernels, which are not here: {reason}") from reason


def stated(program: Program, per_image: bool) -> str:
    """What a file says of itself, JSON."""
    return json.dumps({"budgets": program.budgets, "between": program.between, "classes": program.classes,
                       "precision": program.precision, **({"per_image": True} if per_image else {}),
                       **({"cascade": True} if program.cascade else {})})


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


HOSTS = {
    "pt2": Host("PyTorch", _write_pt2, _load_pt2, torch_library),
    "aoti": Host("AOTInductor", _write_aoti, _load_aoti, torch_library),
    "onnx": Host("ONNX Runtime", _write_onnx, _load_onnx, onnx_library, ("onnx", "onnxruntime")),
}
