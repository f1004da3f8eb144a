"""Reading weight files: tensors only, completely, or an error that names what does not fit.

Of the files that training scripts leave, these are read: a state dictionary at the top or under one of `NESTED`, with
the prefixes of torch.compile, data parallelism and Lightning, beside arguments of the script and the counts of thop.
"""
from __future__ import annotations

import errno
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bdsa.config.names import WEIGHT_SUFFIXES
from bdsa.errors import UserError, first_line, nearest
from bdsa.models.digest import advice, check_digest

# Numbers that many training scripts leave in their checkpoints (best_prec1 and the like).
NUMPY_SCALARS = [np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
                 *((np.float64(0).__reduce__()[0], f"numpy.{home}.multiarray.scalar") for home in ("core", "_core"))]
# What to do about weights of other classes than the data's, by the section of the settings that named them.
OTHER_CLASSES = {
    "model": ": set model.reset_head=true to train a new classifier",
    "teacher": ": distillation needs a teacher of the same classes, in the same order; give one trained on these data "
               "(teacher.weights=PATH), teacher=self for the network's own dense path, or teacher=none",
}
# Where a state dictionary lies; of several the first. Averaged weights are taken only where there are no others.
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "state_dict_ema", "model_ema", "ema",
          "ema_state_dict", "module")
WRAPPERS = ("_orig_mod.", "module.")                   # torch.compile's, and data parallelism's
HOLDERS = ("model.", "net.", "network.")               # attributes of a Lightning module; where all tensors have it
COUNTS = ("total_ops", "total_params", "n_averaged")   # of thop, and of torch's AveragedModel


class Skipped(dict):
    """Stands for an object of a training script, such as its parsed arguments: whatever it held is passed over."""

    def __new__(cls, *_: Any, **__: Any) -> Skipped:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


SKIPPED = [(Skipped, name) for name in (
    "argparse.Namespace", "types.SimpleNamespace", "yacs.config.CfgNode", "easydict.EasyDict",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict")]


def read_file(path: str | Path) -> dict:
    """Read a .safetensors file or a `torch.save` dictionary without running any code of it.

    Raises:
        UserError: if the file is missing, damaged, of another format, or a pickle that holds anything but
            tensors, plain values and what is passed over (`SKIPPED`).
    """
    path = Path(path)
    try:
        kept = path.exists()
        if not kept:
            there = [p.name for p in path.parent.glob("*") if p.suffix in WEIGHT_SUFFIXES]
            raise UserError(f"weights file {path} does not exist{nearest(path.name, there)}")
        if path.is_dir():
            raise UserError(f"weights file {path} is a folder: name the file in it")
        if not path.is_file():
            raise UserError(f"weights file {path} is no regular file")
        check_digest(path)
    except OSError as error:
        name = f"{str(path)[:80]}..." if error.errno == errno.ENAMETOOLONG else path
        raise UserError(f"weights file {name} cannot be read: {os.strerror(error.errno or 0)}") from error
    content = _loaded(path)
    if not isinstance(content, dict):
        raise UserError(f"weights file {path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _loaded(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UserError(f"weights file {path} is refused: it is compressed, which torch.save never does, "
                                    f"and could be of any size")
        with torch.serialization.safe_globals([*NUMPY_SCALARS, *SKIPPED]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused in words of ours
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(f"weights file {path} is refused: its pickle holds more than tensors and plain "
                            f"values and could run code") from error
        raise UserError(f"weights file {path} is damaged or not a torch file; {advice(path)}") from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise UserError(f"weights file {path} is damaged, truncated or not a weights file; {advice(path)}") from error


def state_dict_of(content: dict, source: object = "the file") -> dict[str, Tensor]:
    """The state dictionary inside a checkpoint: possibly nested, without the prefixes of wrappers.

    Raises:
        UserError: if there is none.
    """
    for _ in range(3):  # {"ema": {"module": {...}}}
        key = next((k for k in NESTED if isinstance(content.get(k), dict) and content[k]), None)
        if key is None:
            break
        content = content[key]
    state = {_unwrapped(k): v for k, v in content.items()
             if isinstance(k, str) and isinstance(v, Tensor) and k.rpartition(".")[2] not in COUNTS}
    if not state:
        raise UserError(f"{source} holds no tensors under {', '.join(NESTED)} or at its top")
    try:
        check_tensors(state)
    except ValueError as error:
        raise UserError(f"{source} is damaged: {error}") from error
    for prefix in HOLDERS:
        if all(k.startswith(prefix) for k in state):
            state = {_unwrapped(k.removeprefix(prefix)): v for k, v in state.items()}
    return state


def _unwrapped(name: str) -> str:
    """A tensor's name without the prefixes of wrappers, in whatever order they were put around the network."""
    while prefix := next((p for p in WRAPPERS if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


def check_tensors(state: object) -> None:
    """Raise ValueError unless `state` is a dictionary of tensors, each no larger than what the file holds of it."""
    if not isinstance(state, dict) or not state:
        raise ValueError(f"state_dict is {'missing' if state is None else short(state)}")
    for name, tensor in state.items():
        if not isinstance(name, str) or len(name) > 1000:
            raise ValueError(f"state_dict has a tensor named {short(name)}")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu" \
                or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"state_dict.{short(name, 80)} is no plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"state_dict.{short(name, 80)} claims more numbers than the file has")


def short(value: object, limit: int = 40) -> str:
    """A value in a few letters, whatever it is."""
    if isinstance(value, str):
        text = value if len(value) <= limit else f"{value[:limit]}..."
        return "".join(c if c.isprintable() else "?" for c in text)
    if isinstance(value, (bool, float, type(None))) or (isinstance(value, int) and value.bit_length() <= 64):
        return str(value)
    return "a huge number" if isinstance(value, int) else f"a {type(value).__name__}"


def check_fit(model: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Raise UserError that names the first tensors of `state` that are not those of `model`, which may have no data."""
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    shapes = [f"{k} is {list(state[k].shape)}, the model's {list(v.shape)}"
              for k, v in own.items() if k in state and state[k].shape != v.shape]
    kinds = [f"{k} is {state[k].dtype}, the model's {v.dtype}" for k, v in own.items()
             if k in state and (state[k].is_floating_point() != v.is_floating_point() or state[k].is_complex())]
    if missing or extra or shapes or kinds:
        found = {"missing": missing, "unknown": extra, "of another shape": shapes, "of another kind": kinds}
        parts = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                 for what, names in found.items() if names]
        raise UserError(f"{source} does not fit {type(model).__name__}: {'; '.join(parts)}")


def load_completely(model: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Load every tensor of `state` into `model`, or raise UserError that names the first that does not fit."""
    check_fit(model, state, source)
    model.load_state_dict(state, strict=not any(k not in state for k in model.state_dict()))


def load_dense_weights(model: nn.Module, path: str | Path, reset_head: bool = False, section: str = "model") -> None:
    """Load a dense network's weights from a local file into a timm network that is not yet adapted.

    Args:
        model: the network; timm's own name mapping for its family is applied.
        path: .safetensors, .pt, .pth or .bin.
        reset_head: keep the model's new classifier where the file's has another number of classes.
        section: the section of the settings that asked for the file, for what errors advise.

    Raises:
        UserError: if anything is missing, unknown or of another shape.
    """
    state = state_dict_of(read_file(path), path)
    if any(".mask_units." in k or "masker" in k for k in state):
        advice = "go on from it with model.start=PATH" if section == "model" else "a teacher is dense"
        raise UserError(f"weights file {path} is an adaptive network's checkpoint, not a dense network's weights: "
                        f"{advice}, or measure it with bdsa-evaluate checkpoint=PATH")
    mapping = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if mapping is not None:
        try:
            state = mapping(state, model)
        except KeyError as error:
            raise UserError(f"{path} does not fit {type(model).__name__}: unknown {error}") from error
        except Exception as error:  # the mapping takes tensors apart before it knows whose they are
            said = first_line(error)
            raise UserError(f"{path} does not fit {type(model).__name__}: {said}") from error
    own = model.state_dict()
    head = [k for k, v in own.items() if k.endswith((".fc.weight", ".fc.bias")) or k in ("fc.weight", "fc.bias")]
    head = [k for k in head if own[k].shape[0] == model.num_classes and k in state]
    classes = {state[k].shape[0] for k in head if state[k].ndim}
    if classes and classes != {model.num_classes}:
        if not reset_head:
            raise UserError(f"weights file {path} has {classes.pop()} classes, the data {model.num_classes}"
                            f"{OTHER_CLASSES[section]}")
        state.update({k: own[k] for k in head})
    load_completely(model, state, path)
