"""A trained network as one safetensors file: weights, form, settings, results and attribution, for deployment.

Unlike a checkpoint it holds nothing of the optimiser and nothing of the machine that made it.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialized
from torch import nn

from bdsa.config.names import with_file
from bdsa.errors import UserError, nearest
from bdsa.models import checkpoints
from bdsa.models.digest import KEY, LENGTH, with_digest
from bdsa.models.feature_network import FeatureNetwork
from bdsa.models.fetching import weights_of
from bdsa.models.measuring import network_in
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.stated import check_content
from bdsa.models.weights import check_fit
from bdsa.runs.files import replacing

CARRIED = ("format", "model", "epoch", "calibrated", "weights", "config", "results", "classes", "image_size", "curves",
           "ranges", "confidence")
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
        stated = {"format": "pt", "bdsa": json.dumps(carried), KEY: "0" * LENGTH}  # "format" is for other readers
        file.write(with_digest(serialized(tensors, metadata=stated)))


def save(model: nn.Module, path: str | Path, *, classes: Sequence[str] | None = None,
         results: dict[str, Any] | None = None, image_size: int | list[int] | None = None,
         attribution: str | None = None, name: str | None = None, args: dict[str, Any] | None = None) -> Path:
    """Write a network to one file that `bdsa.load` and the commands read.

        bdsa.save(model, "network.safetensors", classes=["cat", "dog"], image_size=224)

    Args:
        model: an adaptive network, or a module that holds one, of which the network alone is written.
        path: a .safetensors file; its folder is made.
        classes: the names of the network's outputs.
        results: what the reader may want to know, plain values.
        image_size: side in pixels of the images that it was trained on, or [height, width].
        attribution: whom the weights are owed to and under which licence.
        name, args: what `bdsa.create_model` takes to build such a network; known where it built this one.

    Returns:
        The path.

    Raises:
        UserError: for a network that cannot be built again from what the file would say, and what no file can hold.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"path '{path}' must end in .safetensors{nearest(path.suffix, ['.safetensors'])}")
    network = network_in(model)
    made = dict(network.made_with or {})
    name, args = name or made.get("name") or architecture(network), made.get("args", {}) if args is None else args
    if name is None:
        raise UserError(f"a {type(network).__name__} does not say how it is built: register a function that builds the "
                        f"dense network with @bdsa.register_model('my_network') and give name='my_network'")
    spec = checkpoints.ModelSpec(name, int(getattr(network, "num_classes", 0)), network.budgets.plain(),
                                 network.norm_affine, args, network.mask_norm,
                                 list(model.out_indices) if isinstance(model, FeatureNetwork) else None,
                                 network.submanifold)
    known = {"classes": None if classes is None else list(classes), "results": results, "image_size": image_size,
             "attribution": attribution}
    content = checkpoints.network_content(network, spec, **{k: v for k, v in known.items() if v is not None})
    content["state_dict"] = {key: t.detach().cpu() for key, t in content["state_dict"].items()}
    check_content(content, path)
    try:
        check_fit(checkpoints.outline(content, path), content["state_dict"], f"what {name} builds")
    except UserError as error:
        raise UserError(f"{path} could not be read again: {error}; give name=... and args={{...}} of "
                        f"bdsa.create_model, or of your bdsa.register_model") from error
    write_weights_file(path, content)
    return path


def architecture(network: AdaptiveNetwork) -> str | None:
    """timm's name of a network that it built, or None."""
    stated = getattr(network, "pretrained_cfg", None) or {}
    return stated.get("architecture") if isinstance(stated, dict) else getattr(stated, "architecture", None)


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Settings without the folders of the machine; files keep their names."""
    config = deepcopy(config)
    for section, key in (*PATHS, *PLACES):
        part = config if section is None else config.get(section) or {}
        if isinstance(part.get(key), str):
            part[key] = Path(part[key]).name if (section, key) in PATHS else None
    teacher = config.get("teacher") or {}
    if isinstance(others := teacher.get("others"), list) and all(isinstance(other, str) for other in others):
        teacher["others"] = [with_file(other, lambda file: Path(file).name) for other in others]
    config["plugins"] = [Path(path).name for path in config.get("plugins") or []]
    return config


def load(path: str | Path) -> AdaptiveNetwork | FeatureNetwork:
    """The trained network of a checkpoint of bdsa-train or a file of bdsa-export, for inference.

    Args:
        path: the file, a folder of `bdsa.save_for_hub`, or "hf-hub:owner/name" of the Hugging Face Hub.

    A file of a network that gives feature maps gives a `FeatureNetwork`.

    It is in eval mode, and its `execution` is "auto": under torch.inference_mode() or torch.no_grad() each block
    goes the way that is faster on this machine.

    Raises:
        UserError: if the file is missing, damaged or of something else.
    """
    path = weights_of(path)
    content = checkpoints.read_checkpoint(path, "bdsa.load takes no other, dense weights and the authors' code's among "
                                                "them")
    network = checkpoints.load_network(content, path).eval()
    network.execution = "auto"
    stages = content["model"].get("out_indices")
    return network if stages is None else FeatureNetwork(network, stages).eval()
