"""What a file states is held against rules before anything is built from it: names, types, lengths and sizes."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.models import split_model_name_tag

from bdsa.budgets import Budgets
from bdsa.config.image_size import check_image_size
from bdsa.errors import UserError, unknown
from bdsa.method.cascade import Confidence, confidence_of
from bdsa.method.curves import Curve, curve_of
from bdsa.method.masks import MASK_NORMS
from bdsa.method.norms import AFFINE
from bdsa.models.registration import OWN
from bdsa.models.weights import check_tensors, short

# The arguments that shape a ResNet, a ConvNeXt or a CIFAR ResNet. None makes timm open a file or the network.
ARGUMENTS = (
    "in_chans", "global_pool", "output_stride", "drop_rate", "drop_path_rate", "act_layer", "norm_layer", "stem_type",
    "layers", "cardinality", "base_width", "stem_width", "replace_stem_pool", "block_reduce_first", "down_kernel_size",
    "avg_down", "channels", "zero_init_last",
    "depths", "dims", "kernel_sizes", "ls_init_value", "patch_size", "head_init_scale", "head_norm_first",
    "head_hidden_size", "conv_mlp", "conv_bias", "use_grn", "norm_eps",
    "depth", "shortcut", "width")
# What a user's own network may not be given either: timm's create_model reads them.
RESERVED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
            "exportable", "no_jit", "num_classes")
DEPTHS = ("layers", "depths", "depth")  # how many blocks are made
FORM = ("name", "num_classes", "budgets", "norm_affine", "args", "mask_norm", "out_indices", "submanifold")
PLAIN = {"epoch": int, "calibrated": bool, "weights": str, "attribution": str, "config": dict, "results": dict,
         "classes": list, "best": dict, "images": dict, "curves": dict, "ranges": dict, "confidence": dict}
MOST_CLASSES, WIDEST, MOST_ITEMS, DEEPEST, LONGEST = 1_000_000, 65_536, 1_000_000, 16, 1_000_000


def check_content(content: Mapping[str, Any], source: object) -> None:
    """Hold the content of a checkpoint of ours against its rules.

    Raises:
        UserError: for the first part that breaks one; it names the part.
    """
    try:
        state, model = content.get("state_dict"), content.get("model")
        check_tensors(state)
        for key, kind in PLAIN.items():
            value = content.get(key)
            if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
                raise ValueError(f"{key} is {short(value)}")
            _check_plain(value, key)
        if not 0 <= (content.get("epoch") or 0) <= 10**9:
            raise ValueError(f"epoch is {short(content['epoch'])}")
        _check_model(model, len(state or ()))
        _check_settings(content.get("config") or {})
        for part, name in ((content, "image_size"), (content.get("results") or {}, "results.image_size")):
            if part.get("image_size") is not None:
                check_image_size(name, part["image_size"])
        check_curves(content.get("curves") or {}, content["model"]["budgets"])
        check_ranges(content.get("ranges") or {})
        check_confidence(content.get("confidence"))
        classes = content.get("classes")
        if classes is not None and (not all(isinstance(c, str) for c in classes)
                                    or len(classes) != content["model"]["num_classes"]):
            raise ValueError(f"classes are not the names of {content['model']['num_classes']} classes")
    except ValueError as error:
        raise UserError(f"{source} is no sound checkpoint: {error}; get or make it anew") from error


def check_curves(curves: Mapping[str, Any], budgets: list[float]) -> dict[str, Curve]:
    """The curves that a file states: of every budget below 1, by its name, or none.

    Raises:
        ValueError: for anything else.
    """
    wanted = [b.name for b in Budgets(budgets).adaptive]
    if curves and sorted(curves) != sorted(wanted):
        raise ValueError(f"curves are of {short(', '.join(sorted(curves)))}, not of {', '.join(wanted)}")
    found = {}
    for name in wanted if curves else ():
        try:
            found[name] = curve_of(curves[name])
        except ValueError as error:
            raise ValueError(f"the curve of {name} is none: {error}") from error
    if len({len(curve.blocks[0]) for curve in found.values()}) > 1:
        raise ValueError("curves are of different numbers of blocks")
    return found


def check_ranges(ranges: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The ranges for int8 that a file states: by the layer's name, from at most 0 to at least 0.

    Raises:
        ValueError: for anything else.
    """
    for name, ends in ranges.items():
        sound = isinstance(ends, (list, tuple)) and len(ends) == 2 and all(
            isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
        if not sound or not ends[0] <= 0 <= ends[1]:
            raise ValueError(f"the range of {short(name)} is {short(ends)}, which is none around 0")
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


def check_confidence(confidence: Mapping[str, Any] | None) -> Confidence | None:
    """What a file states of how sure first answers are, or None where it says nothing.

    Raises:
        ValueError: for anything else.
    """
    try:
        return confidence_of(confidence) if confidence else None
    except ValueError as error:
        raise ValueError(f"confidence is none: {error}") from error


def check_arguments(name: str, arguments: Mapping[str, Any], blocks: int = 10_000) -> None:
    """Hold `model.args` against what shapes a network.

    Args:
        name: the model's.
        arguments: what timm, or the user's own function, would be given.
        blocks: how many there can be at most.

    Raises:
        UserError: for an argument that does more than shape the network, or a value that cannot be.
    """
    own = split_model_name_tag(name)[0] in OWN
    for argument, value in arguments.items():
        if argument in RESERVED or not (own or argument in ARGUMENTS):
            raise unknown("argument that shapes a network, model.args", argument, ARGUMENTS, limit=len(ARGUMENTS))
        listed = value if isinstance(value, (list, tuple)) else [value]
        if len(listed) > 64 or not all(_is_small(v) for v in listed):
            raise UserError(f"model.args.{argument} is {short(value)}: no word, no number up to {WIDEST:,} and no "
                            f"list of them")
        if argument in DEPTHS and sum(v for v in listed if _is_int(v)) > blocks:
            raise UserError(f"model.args.{argument} is {short(value)}: more blocks than there can be")


def _check_model(model: object, tensors: int) -> None:
    if not isinstance(model, dict):
        raise ValueError(f"model is {'missing' if model is None else short(model)}")
    _check_plain(model, "model")
    if further := [key for key in model if key not in FORM]:
        raise ValueError(f"model has '{short(further[0], 80)}', which this version does not know")
    name, classes, budgets = (model.get(key) for key in ("name", "num_classes", "budgets"))
    if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
        raise ValueError(f"model.name is {short(name)}")
    stages = model.get("out_indices")
    if stages is not None and not (isinstance(stages, list) and 0 < len(stages) <= 64 and all(map(_is_int, stages))):
        raise ValueError(f"model.out_indices is {short(stages)}")
    if not _is_int(classes) or not (0 if stages else 1) <= classes <= MOST_CLASSES:
        raise ValueError(f"model.num_classes is {short(classes)}")
    if not isinstance(budgets, list) or len(budgets) > tensors:
        raise ValueError(f"model.budgets is {short(budgets)}")
    Budgets(budgets)
    for key, known in (("norm_affine", AFFINE), ("mask_norm", MASK_NORMS)):
        if key in model and (not isinstance(model[key], str) or model[key] not in known):
            raise ValueError(f"model.{key} is {short(model[key])}")
    if not isinstance(model.get("submanifold", False), bool):
        raise ValueError(f"model.submanifold is {short(model['submanifold'])}")
    arguments = model.get("args", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"model.args is {short(arguments)}")
    check_arguments(name, arguments, tensors)


def _check_settings(config: dict[str, Any]) -> None:
    for section in ("model", "teacher", "awareness", "data"):
        if not isinstance(config.get(section) or {}, dict):
            raise ValueError(f"config.{section} is {short(config[section])}")
    plugins = config.get("plugins") or []
    if not isinstance(plugins, list) or not all(isinstance(p, str) and p for p in plugins):
        raise ValueError(f"config.plugins is {short(plugins)}")


def _check_plain(value: object, name: str) -> None:
    """Raise ValueError unless a value is made of words, numbers, lists and dictionaries, and of a size to be read."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if seen > MOST_ITEMS or depth > DEEPEST:
            raise ValueError(f"{name} is {'too deep' if depth > DEEPEST else 'too large'}")
        if isinstance(item, dict):
            if not all(isinstance(key, str) and len(key) <= 1000 for key in item):
                raise ValueError(f"{name} has a key that is no name")
            waiting += [(v, depth + 1) for v in item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += [(v, depth + 1) for v in item]
        elif isinstance(item, str):
            if len(item) > LONGEST:
                raise ValueError(f"{name} holds a text that is too long")
        elif isinstance(item, int):
            if item.bit_length() > 64:
                raise ValueError(f"{name} holds a number that is too large")
        elif item is not None and type(item) is not float:
            raise ValueError(f"{name} holds a {type(item).__name__}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_small(value: object) -> bool:
    """Whether a value of an argument is a word, a flag, nothing, or a number that sizes can be."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value) and abs(value) <= WIDEST
    return value is None or isinstance(value, (bool, str)) and len(str(value)) <= 200
