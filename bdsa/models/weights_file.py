"""A trained network as one safetensors file: weights, form, settings, results and attribution, for deployment.

Unlike a checkpoint it holds nothing of the optimiser and nothing of the machine that made it.
"""
from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from bdsa.models import checkpoints
from bdsa.models.digest import KEY, LENGTH, with_digest
from bdsa.models.network import AdaptiveNetwork
from bdsa.runs.files import replacing

CARRIED = ("format", "model", "epoch", "calibrated", "weights", "config", "results", "classes", "image_size")
# Settings that are reduced to a file's name, and those that belong to one machine.
PATHS = (("model", "weights"), ("model", "start"), ("teacher", "weights"), ("awareness", "targets"))
PLACES = (("data", "root"), (None, "out"), (None, "name"))


def write_weights_file(path: Path, content: dict[str, Any], attribution: str | None = None) -> None:
    """Write a checkpoint's network to a .safetensors file, whole or not at all.

    Args:
        path: the file; its folder is made.
        content: what `checkpoints.read_checkpoint` returned.
        attribution: whom the weights are owed to and under which licence.

    The metadata have a digest of the file and one key, "bdsa", with JSON inside: format, model, config, results,
    classes, attribution.
    """
    carried = {key: content[key] for key in CARRIED if key in content}
    if "config" in carried:
        carried["config"] = without_places(carried["config"])
    carried["digest"] = KEY  # so that a file whose digest is gone is not taken for one of before there were any
    carried["attribution"] = attribution if attribution is not None else content.get("attribution")
    # In their own order and layout: channels-last tensors are not contiguous, and views would be refused.
    tensors = {name: t.detach().cpu().to(memory_format=torch.contiguous_format).clone()
               for name, t in content["state_dict"].items()}
    with replacing(path) as file:  # not save_file, whose files only their owner may read
        file.write(with_digest(save(tensors, metadata={"bdsa": json.dumps(carried), KEY: "0" * LENGTH})))


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Settings without the folders of the machine; files keep their names."""
    config = deepcopy(config)
    for section, key in (*PATHS, *PLACES):
        part = config if section is None else config.get(section) or {}
        if isinstance(part.get(key), str):
            part[key] = Path(part[key]).name if (section, key) in PATHS else None
    config["plugins"] = [Path(path).name for path in config.get("plugins") or []]
    return config


def load(path: str | Path) -> AdaptiveNetwork:
    """The trained network of a checkpoint of bdsa-train or a file of bdsa-export, for inference.

    It is in eval mode, and its `execution` is "auto": under torch.inference_mode() or torch.no_grad() each block
    goes the way that is faster on this machine.

    Raises:
        UserError: if the file is missing, damaged or of something else.
    """
    network = checkpoints.load_network(checkpoints.read_checkpoint(path), path).eval()
    network.execution = "auto"
    return network
