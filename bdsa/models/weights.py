"""Reading weight files: tensors only, completely, or an error that names what does not fit."""
from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bdsa.config.names import WEIGHT_SUFFIXES
from bdsa.errors import UserError, nearest

# Numbers that many training scripts leave in their checkpoints (best_prec1 and the like).
NUMPY_SCALARS = [np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
                 *((np.float64(0).__reduce__()[0], f"numpy.{home}.multiarray.scalar") for home in ("core", "_core"))]
# What to do about weights of other classes than the data's, by the section of the settings that named them.
OTHER_CLASSES = {
    "model": ": set model.reset_head=true to train a new classifier",
    "teacher": ": distillation needs a teacher of the same classes, in the same order; give one trained on these data "
               "(teacher.weights=PATH), teacher=self for the network's own dense path, or teacher=none",
}
NESTED = ("state_dict", "model", "state_dict_ema", "model_ema")


def read_file(path: str | Path) -> dict:
    """Read a .safetensors file or a `torch.save` dictionary without running any code of it.

    Raises:
        UserError: if the file is missing, truncated, of another format, or a pickle that holds
            anything but tensors and plain values.
    """
    path = Path(path)
    if not path.exists():
        there = [p.name for p in path.parent.glob("*") if p.suffix in WEIGHT_SUFFIXES]
        raise UserError(f"weights file {path} does not exist{nearest(path.name, there)}")
    if path.is_dir():
        raise UserError(f"weights file {path} is a folder: name the file in it")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused in words of ours
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(f"weights file {path} is refused: its pickle holds more than tensors and plain "
                            f"values and could run code") from error
        raise UserError(f"weights file {path} is damaged or not a torch file") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"weights file {path} is damaged, truncated or not a weights file") from error
    if not isinstance(content, dict):
        raise UserError(f"weights file {path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def state_dict_of(content: dict, source: object = "the file") -> dict[str, Tensor]:
    """The state dictionary inside a checkpoint: possibly nested, without data-parallel prefixes."""
    for key in NESTED:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {k.removeprefix("module."): v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        raise UserError(f"{source} holds no tensors under {', '.join(NESTED)} or at its top")
    return state


def load_completely(model: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Load every tensor of `state` into `model`, or raise UserError that names the first that does not fit."""
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    shapes = [f"{k} is {list(state[k].shape)}, the model's {list(v.shape)}"
              for k, v in own.items() if k in state and state[k].shape != v.shape]
    if missing or extra or shapes:
        parts = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                 for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes)) if names]
        raise UserError(f"{source} does not fit {type(model).__name__}: {'; '.join(parts)}")
    model.load_state_dict(state, strict=not any(k not in state for k in own))


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
        except RuntimeError as error:  # the mapping reshapes matrices
            raise UserError(f"{path} does not fit {type(model).__name__}: {error}") from error
    own = model.state_dict()
    head = [k for k, v in own.items() if k.endswith((".fc.weight", ".fc.bias")) or k in ("fc.weight", "fc.bias")]
    head = [k for k in head if own[k].shape[0] == model.num_classes and k in state]
    classes = {state[k].shape[0] for k in head}
    if classes and classes != {model.num_classes}:
        if not reset_head:
            raise UserError(f"weights file {path} has {classes.pop()} classes, the data {model.num_classes}"
                            f"{OTHER_CLASSES[section]}")
        state.update({k: own[k] for k in head})
    load_completely(model, state, path)
