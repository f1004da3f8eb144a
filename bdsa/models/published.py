"""Checkpoints of the published code, read into this package's networks without running any of their code.

A published checkpoint is a dictionary with `state_dict` (and `optimizer`, `epoch`, `best_prec1`, which
are not needed here). Its tensors carry torchvision's or Facebook's names; inside a block, and with the
budget's digits <b> (0.3 -> 03), they are called

    this package                               multi-budget file              single-budget file
    layer1.0.mask_units.b030.fc.weight         layer1.0.masker03.maskconv...  layer1.0.masker.maskconv...
    layer1.0.bn1.per_budget.b030.weight        layer1.0.bn1_03.weight         layer1.0.bn1.weight
    layer1.0.downsample.1.per_budget.b030...   layer1.0.downsample.1...       layer1.0.downsample.1...
    stages.0.blocks.1.norm.per_budget.b030...  stages.0.1.norm_03...          stages.0.1.norm...

Every tensor of the network is looked up in the file under the file's own name, so that an error names
what the user can find there.
"""
from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from bdsa.budgets import DENSE, Budget, Budgets
from bdsa.errors import UserError, unknown
from bdsa.models.factory import create_dense_model
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.surgery import adapt
from bdsa.models.weights import load_completely, read_file, state_dict_of

MULTI = "_multi"
ARCHITECTURES = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
                               "convnext_tiny", "convnext_small", "convnext_base", "convnext_large")},
    "resnet20": "cifar_resnet20",
    "resnet32": "cifar_resnet32",
}
# timm's names -> Facebook's; none of the patterns occurs in a ResNet
FACEBOOK_NAMES = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc", ".pwconv"),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
)


def load_published_checkpoint(source: str | PathLike | dict, architecture: str, num_classes: int | None = None,
                              budget: float | None = None) -> AdaptiveNetwork:
    """Build the adaptive network that a published checkpoint holds, with all of its weights.

    Args:
        source: the file, or the dictionary that it holds.
        architecture: the published name, such as "resnet18", "resnet18_multi" or "convnext_tiny";
            for a multi-budget file the ending may be left out, because the file says its budgets.
        num_classes: classes that the file must have; None takes the file's.
        budget: the budget of a single-budget file, which does not say it; for a multi-budget file
            not needed, and checked to be one of the file's.

    Returns:
        The network in training mode, as timm makes it, with separate affine parameters per budget. Where
        a multi-budget file has budget 1.0, its norms become the dense network's: here that budget masks
        nothing, and its mask units are left out with a warning.

    Raises:
        UserError: for an unreadable file, a wrong architecture, class count or budget, and for any
            tensor that is missing, left over or of another shape.
    """
    base = architecture.removesuffix(MULTI)
    if base not in ARCHITECTURES:
        raise unknown("published architecture", architecture, [n + s for n in ARCHITECTURES for s in ("", MULTI)])
    if isinstance(source, dict):
        content, label = source, f"the checkpoint, read as {architecture},"
    elif isinstance(source, (str, PathLike)):
        content, label = read_file(Path(source)), f"checkpoint {source}, read as {architecture},"
    else:
        raise UserError(f"a published checkpoint is a path or a dictionary, not a {type(source).__name__}")
    state = state_dict_of(content, label)
    found = _digits_by_budget(state, label, budget, multi=architecture.endswith(MULTI))
    classes = _classes(state, ARCHITECTURES[base], num_classes, label)
    kwargs: dict[str, Any] = {}
    if ARCHITECTURES[base].startswith("cifar"):
        kwargs["shortcut"] = "B" if any(".downsample." in k for k in state) else "A"
    model = create_dense_model(ARCHITECTURES[base], classes, **kwargs)
    adapt(model, Budgets(found), "separate", architecture)
    assert isinstance(model, AdaptiveNetwork)
    _fill(model, state, {budget.name: digits for budget, digits in found.items()}, label)
    return model


def published_name(name: str, digits: dict[str, str]) -> str:
    """What a published file calls a tensor of the adaptive network.

    Args:
        name: this package's name of the tensor.
        digits: name of each budget -> how the file writes it ("b030" -> "03"; "" in a single-budget file).
    """
    for pattern, text in FACEBOOK_NAMES:
        name = re.sub(pattern, text, name)
    if DENSE.name in digits and ".per_budget." not in name:
        name = re.sub(r"\.(bn\d|norm)\.", rf".\1{_ending(digits[DENSE.name])}.", name)
    name = re.sub(r"\.mask_units\.(b\d+)\.", lambda m: f".masker{digits[m[1]]}.maskconv.", name)
    name = re.sub(r"\.(bn\d|norm)\.per_budget\.(b\d+)\.", lambda m: f".{m[1]}{_ending(digits[m[2]])}.", name)
    return re.sub(r"\.per_budget\.b\d+\.", ".", name)  # a projection's norm: one for all budgets


def _ending(digits: str) -> str:
    return f"_{digits}" if digits else ""


def _digits_by_budget(state: dict[str, Tensor], label: str, budget: float | None, multi: bool) -> dict[Budget, str]:
    """Each budget of a file -> the digits by which the file calls it; none where it has only one."""
    found = sorted({m[1] for m in (re.search(r"\.masker(\d*)\.", k) for k in state) if m})
    if not found:
        raise UserError(f"{label} has no mask units (tensors named masker): it is not an adaptive network")
    numbered = [d for d in found if d]
    if multi and not numbered:
        raise UserError(f"{label} is of a single budget: name the architecture without {MULTI}, and the budget")
    if not numbered:
        if budget is None:
            raise UserError(f"{label} is of a single budget, which the file does not say: give budget=..., "
                            f"such as budget=0.5")
        return {Budget(budget): ""}
    try:
        values = Budgets([Budget(float(f"{d[0]}.{d[1:] or 0}")) for d in numbered])
    except UserError as error:
        raise UserError(f"{label} has mask units of no possible budget: {error}") from error
    if budget is not None and Budget(budget) not in values.values:
        raise UserError(f"{label} has no budget {budget:g}: its budgets are {', '.join(f'{v:g}' for v in values)}")
    return {Budget(float(f"{d[0]}.{d[1:] or 0}")): d for d in numbered}


def _classes(state: dict[str, Tensor], model: str, wanted: int | None, label: str) -> int:
    """Number of classes of the file's classifier, which must be `wanted` unless that is None."""
    head = "head.weight" if model.startswith("convnext") else "fc.weight"
    if head not in state or state[head].ndim != 2:
        raise UserError(f"{label} lacks the classifier {head}: it is incomplete or of another architecture")
    classes = state[head].shape[0]
    if wanted is not None and wanted != classes:
        raise UserError(f"{label} has {classes} classes, not {wanted}")
    return classes


def _fill(model: AdaptiveNetwork, state: dict[str, Tensor], digits: dict[str, str], label: str) -> None:
    """Load every tensor of the file into the network; statistics' step counters alone may be missing."""
    own = model.state_dict()
    names = {ours: published_name(ours, digits) for ours in own}
    used = set(names.values())
    missing = sorted({n for n in used if n not in state and not n.endswith("num_batches_tracked")})
    extra = [n for n in state if n not in used]
    if DENSE.name in digits:  # the dense network takes no mask units, and this budget's norms as its own
        unused = {n for n in extra if f".masker{digits[DENSE.name]}." in n}
        unused |= {published_name(ours, {}) for ours in own if not _is_of_a_budget(ours)}
        dropped = sum(".masker" in n for n in extra if n in unused)
        warnings.warn(f"{label} masks at budget 1 too; here that budget is dense, so {dropped} tensors of its "
                      f"mask units are left out", stacklevel=3)
        extra = [n for n in extra if n not in unused]
    if missing or extra:
        parts = [_listed(missing, "missing")] * bool(missing) + [_listed(extra, "left over")] * bool(extra)
        raise UserError(f"{label} does not fit: {'; '.join(parts)}")
    loaded = {ours: _shaped(state[theirs], own[ours], ours) for ours, theirs in names.items() if theirs in state}
    load_completely(model, loaded, label)


def _is_of_a_budget(ours: str) -> bool:
    return ".mask_units." in ours or ".per_budget." in ours


def _listed(names: Iterable[str], what: str) -> str:
    names = list(names)
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _shaped(value: Tensor, own: Tensor, ours: str) -> Tensor:
    """A mask unit's tensor in the network's shape: a 1x1 convolution holds the numbers of a linear layer."""
    def sizes(tensor: Tensor) -> list[int]:
        return [n for n in tensor.shape if n != 1]

    return value.reshape(own.shape) if ".mask_units." in ours and sizes(value) == sizes(own) else value
