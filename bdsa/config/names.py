"""Names that settings and code share."""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bdsa.errors import UserError, unknown

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
EXECUTIONS = ("masked", "sparse", "auto")  # ways to run a budget; see AdaptiveNetwork.execution
PRECISIONS = ("float32", "bfloat16", "int8", "auto")  # of an inference; see AdaptiveNetwork.precision
CONSTANT = "never"  # a network's `watch_weights`: its weights are taken for constants until it trains
FORMATS = {"safetensors": ".safetensors", "pt2": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}  # of an exported network
SEARCHES = ("search", "optuna")  # options of hydra/sweeper that choose the values themselves
DEVICES = ("auto", "cpu", "cuda")
LONGEST = 255  # bytes of a folder's or a file's name, on nearly every file system


def teacher_parts(value: str) -> tuple[str | None, str | None]:
    """The model and the file of weights that a text means, NAME:FILE, FILE or NAME; None for what it leaves out."""
    name, given, file = value.partition(":")
    if given and len(name) > 1 and "/" not in name:  # one letter is a drive
        return name, file
    return (None, value) if Path(value).suffix in WEIGHT_SUFFIXES else (value, None)


def with_file(value: str, shortened: Callable[[str], str]) -> str:
    """The same text, its file as a function names it."""
    name, file = teacher_parts(value)
    return value if file is None else ":".join([*filter(None, [name]), shortened(file)])


def check_teachers(values: list[str]) -> None:
    """Raise UserError for a text among them that names neither a model nor a file."""
    for value in values:
        if any(part is not None and not part.strip() for part in teacher_parts(value)):
            raise UserError(f"teacher.others={values}: {value!r} must be NAME:FILE, FILE or NAME, such as "
                            f"cifar_resnet32:resnet32.pt")


def check_device(value: str) -> None:
    """Raise UserError for a device that is neither of DEVICES nor a numbered one of them, such as cuda:1."""
    if not re.fullmatch(r"auto|(cpu|cuda)(:\d{1,4})?", value):
        raise unknown("device", value, (*DEVICES, "cuda:0"))


def check_run_name(value: str) -> None:
    """Raise UserError for a name that is not a folder inside `out`."""
    if not value.strip():
        raise UserError("name= is empty: leave it out, and it is made from the settings")
    if Path(value).is_absolute() or ".." in Path(value).parts or not Path(value).parts:
        raise UserError(f"name={value} is no name of a folder inside out=...: give the place with out=...")
    check_path(value, "name")


def check_path(value: str, name: str = "out") -> None:
    """Raise UserError for what no file or folder can be called, or where a file is in the way."""
    if not value.strip():
        raise UserError(f"{name}= is empty: give a folder or a file, such as {name}=runs")
    if "\0" in value:
        raise UserError(f"{name}={value!r} holds a character that no path can hold")
    if too_long := next((part for part in Path(value).parts if len(part.encode()) > LONGEST), None):
        raise UserError(f"{name}: {too_long[:20]}... is {len(too_long.encode())} bytes long, a name has at most "
                        f"{LONGEST}")
    if name == "out" and (file := next((p for p in Path(value).parents if p.is_file()), None)):
        raise UserError(f"{name}={value} lies below {file}, which is a file: give a folder")


def check_folder(value: str) -> None:
    """Raise UserError for a folder to write to that cannot be one."""
    check_path(value)
    if Path(value).is_file():
        raise UserError(f"out={value} is a file: give a folder")
