"""Checkpoints in the published format with the masks and logits that belong to them, from small files.

`tests/support/fixtures/<name>.npz` holds no weights. Its `meta` (JSON) lists the tensors' names and shapes in
the checkpoint's order, the seed that their values are drawn from, the mask units' biases (chosen so that
the masks are mixed), the budgets and the masks' shapes. `logits_<b>` and `mask_<b>_<block>` (packed bits)
are what the published code answers to the input, which comes from the next seed.
"""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"


class Case(NamedTuple):
    """One checkpoint and the answers that it must give."""
    architecture: str                 # published name, without _multi
    multi: bool
    checkpoint: dict
    images: Tensor                    # [2, 3, 96, 96]
    logits: dict[float, Tensor]       # budget -> [2, 10]
    masks: dict[float, list[Tensor]]  # budget -> a list over blocks of bool [2, 1, h, w]


def read_case(name: str) -> Case:
    """Read `tests/support/fixtures/<name>.npz` and draw its weights and images."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays["meta"]))
    draw = np.random.RandomState(meta["seed"])
    state = {key: _drawn(draw, key, shape) for key, shape in zip(meta["names"], meta["shapes"], strict=True)}
    state.update({key: torch.tensor([bias]) for key, bias in meta["biases"].items()})
    images = np.random.RandomState(meta["seed"] + 1).standard_normal((2, 3, 96, 96))
    checkpoint = {"state_dict": state, "optimizer": {}, "epoch": 3, "best_prec1": 50.0}
    if meta["multi"]:
        checkpoint.update(dict.fromkeys(meta["budgets"], 50.0))
    return Case(architecture=meta["architecture"], multi=meta["multi"], checkpoint=checkpoint,
                images=torch.from_numpy(images.astype(np.float32)),
                logits={b: torch.from_numpy(arrays[f"logits_{b}"]) for b in meta["budgets"]},
                masks={b: [_unpacked(arrays[f"mask_{b}_{i}"], shape) for i, shape in enumerate(meta["mask_shapes"])]
                       for b in meta["budgets"]})


def _drawn(draw: np.random.RandomState, name: str, shape: list[int]) -> Tensor:
    """The next tensor. Every one takes its normal draws, also where its value does not depend on them."""
    noise = draw.standard_normal(shape)
    noise = np.asarray(noise, dtype=np.float32)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(100)
    if name.endswith("running_var"):
        value = np.float32(0.5) + np.abs(noise)
    elif name.endswith("gamma"):
        value = np.float32(0.5) + np.float32(0.1) * noise
    elif len(shape) > 1:  # He's scale
        value = noise * np.sqrt(2.0 / math.prod(shape[1:]), dtype=np.float32)
    elif name.endswith("weight"):
        value = np.float32(1.0) + np.float32(0.1) * noise
    else:
        value = np.float32(0.1) * noise
    return torch.from_numpy(value)


def _unpacked(bits: np.ndarray, shape: list[int]) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool))
