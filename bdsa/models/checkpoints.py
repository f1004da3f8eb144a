"""Checkpoints: written whole or not at all, read without running code.

`last.pt` holds all that a resumed run needs; `best.pt` what a user needs to run the network.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from timm.models import is_model, split_model_name_tag

from bdsa.budgets import Budgets
from bdsa.config import loaded
from bdsa.errors import UserError, first_line
from bdsa.method.cascade import Confidence
from bdsa.method.curves import Curve
from bdsa.models.digest import Digesting, advice
from bdsa.models.factory import create_model
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.published import load_published_checkpoint
from bdsa.models.stated import check_confidence, check_content, check_curves, check_ranges
from bdsa.models.weights import check_fit, load_completely, read_file, state_dict_of
from bdsa.ranks import is_main
from bdsa.runs.files import replacing


@dataclass
class ModelSpec:
    """What it takes to build a network again before its weights are loaded."""
    name: str
    num_classes: int
    budgets: list[float]
    norm_affine: str = "separate"
    args: dict[str, Any] = field(default_factory=dict)
    mask_norm: str = "none"
    out_indices: list[int] | None = None  # of a network that gives feature maps
    submanifold: bool = False

    def build(self) -> AdaptiveNetwork:
        """A network of this form with fresh weights; of one that gives feature maps, its body."""
        return create_model(self.name, self.budgets, self.num_classes, norm_affine=self.norm_affine,
                            mask_norm=self.mask_norm, submanifold=self.submanifold, **self.args)

    def plain(self) -> dict[str, Any]:
        """What files say of it: what is as it always was goes unsaid, so that earlier versions read the file."""
        stated = asdict(self)
        if self.out_indices is None:
            del stated["out_indices"]
        if not self.submanifold:
            del stated["submanifold"]
        return stated


@dataclass
class StoredNetwork:
    """The network of a file, and what else is known of it.

    Attributes:
        network: with all its weights.
        name: the model's name; of a file of the authors' code, the architecture's.
        content: the checkpoint, or None where the authors' code wrote it.
    """
    network: AdaptiveNetwork
    name: str
    content: dict[str, Any] | None


def save(path: Path, content: dict[str, Any]) -> None:
    """torch.save to `path` with a digest, whole or not at all. Rank 0 alone saves."""
    if not is_main():
        return
    with replacing(path) as file:
        checked = Digesting(file)
        torch.save(content, checked)
        checked.finish()


def network_content(network: AdaptiveNetwork, spec: ModelSpec, **more: Any) -> dict[str, Any]:
    """The part of a checkpoint that a user needs: the network's form and weights."""
    curves = {"curves": plain_curves(network)} if network.curves else {}
    ranges = {"ranges": {name: list(ends) for name, ends in network.ranges.items()}} if network.ranges else {}
    sure = {"confidence": network.confidence.plain()} if network.confidence else {}
    return {"format": "bdsa", "model": spec.plain(), "state_dict": network.state_dict(), **curves, **ranges, **sure,
            **more}


def plain_curves(network: AdaptiveNetwork) -> dict[str, dict[str, Any]]:
    """A network's curves for a file, by the budgets' names; empty where none were measured."""
    return {name: curve.plain() for name, curve in network.curves.items()}


def read_checkpoint(path: str | Path, advice: str | None = None) -> dict[str, Any]:
    """Read a checkpoint of this project; nothing but this file is read, and nothing of it is run.

    Args:
        advice: what the caller takes in place of such a file; None: what a training does.

    Raises:
        UserError: if it is missing, damaged, would run code, states what cannot be, or is not a checkpoint of this
            project.
    """
    content = find_checkpoint(path)
    if content is None:
        dense = f"for a dense network's weights give model=NAME model.weights={path}"
        raise UserError(f"{path} is not a checkpoint of bdsa-train: {advice or dense}")
    return content


def find_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """`read_checkpoint`, or None for a file that is not of this project."""
    content = _read(path)
    if not _is_ours(content):
        return None
    check_content(content, path)
    return content


def _read(path: str | Path) -> dict[str, Any]:
    """A file's content; that of bdsa-export as the checkpoint that it was made from."""
    content = read_file(path)
    if Path(path).suffix == ".safetensors":  # a file of bdsa-export says in its metadata what it is
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("bdsa")
        try:
            content = {**json.loads(stated), "state_dict": content} if stated else content
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"weights file {path} is damaged: what it states of itself cannot be read; "
                            f"{advice(Path(path))}") from error
    return content


def _is_ours(content: dict[str, Any]) -> bool:
    return isinstance(content.get("format"), str) and content["format"] == "bdsa"


def load_network(content: dict[str, Any], source: object) -> AdaptiveNetwork:
    """Build the network of a checkpoint and load all its weights.

    Args:
        content: what `read_checkpoint` returned.
        source: what to call it in errors.

    Raises:
        UserError: if the weights do not fit the form that the file states; memory is asked for only if they do.
    """
    check_fit(outline(content, source), content["state_dict"], source)
    network = ModelSpec(**content["model"]).build()
    load_completely(network, content["state_dict"], source)
    network.curves = fitting_curves(content.get("curves") or {}, network, source)
    network.ranges = fitting_ranges(content.get("ranges") or {}, network, source)
    network.confidence = fitting_confidence(content.get("confidence"), network, source)
    return network


def outline(content: dict[str, Any], source: object) -> AdaptiveNetwork:
    """The network that a checkpoint states, without memory: shapes alone.

    Raises:
        UserError: if there is none.
    """
    spec = ModelSpec(**content["model"])
    if not is_model(split_model_name_tag(spec.name)[0]):
        loaded.require(content, source)
    try:
        with torch.device("meta"):
            return spec.build()
    except Exception as error:  # timm says no in many ways
        raise UserError(f"{source} states a network that cannot be built: {first_line(error)}") from error


def fitting_curves(curves: Mapping[str, Any], network: AdaptiveNetwork, source: object) -> dict[str, Curve]:
    """The curves that a file holds, for a network.

    Raises:
        UserError: if they are no curves of it.
    """
    try:
        found = check_curves(curves, network.budgets.plain())
        if found and len(next(iter(found.values())).blocks[0]) != (count := len(network.adaptive_blocks())):
            raise ValueError(f"they are not of {count} blocks")
    except ValueError as error:
        raise UserError(f"{source} holds no curves of this network: {error}; measure them anew") from error
    return found


def fitting_ranges(ranges: Mapping[str, Any], network: AdaptiveNetwork, source: object
                   ) -> dict[str, tuple[float, float]]:
    """The ranges for int8 that a file holds, for a network.

    Raises:
        UserError: if they are no ranges, or of layers that it does not have.
    """
    try:
        found, layers = check_ranges(ranges), {name for name, _ in network.named_modules()}
        if other := next((name for name in found if name not in layers), None):
            raise ValueError(f"it has no layer {other!r}")
    except ValueError as error:
        raise UserError(f"{source} holds no ranges of this network: {error}; measure them anew with "
                        f"bdsa.quantize") from error
    return found


def fitting_confidence(confidence: Mapping[str, Any] | None, network: AdaptiveNetwork, source: object
                       ) -> Confidence | None:
    """How sure first answers are, as a file says it of a network; None where it does not.

    Raises:
        UserError: if it is no such thing, or of budgets that the network does not have.
    """
    try:
        found = check_confidence(confidence)
        for budget in found.budgets if found else ():
            network.point(budget, extrapolate=True)
    except (ValueError, UserError) as error:
        raise UserError(f"{source} holds no confidence of this network: {error}; measure it anew with "
                        f"bdsa.calibrate_confidence") from error
    return found


def open_network(path: str | Path, published: str | None = None, asked: Sequence[float] | None = None,
                 advice: str | None = None) -> StoredNetwork:
    """The network of a checkpoint of bdsa-train or bdsa-export, or of one of the authors' code.

    Args:
        path: the file.
        published: the architecture of a file of the authors' code, such as "resnet18_multi".
        asked: budgets that the command asks for; one below 1 tells a single-budget file of the authors'
            code its budget, which that file does not say.
        advice: what the caller takes in place of a checkpoint of ours; None: one of the authors' code, by `published`.

    Raises:
        UserError: for a file that is neither, or one that the two arguments do not fit.
    """
    content = _read(path)
    if _is_ours(content):
        check_content(content, path)
        if published is not None:
            raise UserError(f"{path} is a checkpoint of bdsa-train, which says itself that it holds a "
                            f"{content['model']['name']}: leave out published={published}")
        return StoredNetwork(load_network(content, path), content["model"]["name"], content)
    if published is None:
        theirs = (f"for one of the authors' code give its architecture, such as published=resnet18_multi; a dense "
                  f"network's weights have no masks and are bdsa-evaluate's model=NAME model.weights={path}")
        raise UserError(f"{path} is not a checkpoint of bdsa-train: {advice or theirs}")
    below = Budgets(asked).adaptive if asked else ()
    if len(below) != 1 and any(".masker." in key for key in state_dict_of(content, path)):
        raise UserError(f"{path} is of a single budget, which the file does not say: give it, such as "
                        f"budgets.targets=[0.5]")
    network = load_published_checkpoint(path, published, budget=below[0] if len(below) == 1 else None)
    return StoredNetwork(network, published, None)
