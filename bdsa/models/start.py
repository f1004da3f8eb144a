"""Go on from a trained adaptive network: its backbone, mask units and norms, for its classes and budgets or others."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bdsa.budgets import Budget, Budgets
from bdsa.data.class_names import shortened
from bdsa.errors import UserError
from bdsa.models.checkpoints import ModelSpec, find_checkpoint, load_network, read_checkpoint
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.projections import gains_projections, with_projections

OF_A_BUDGET = re.compile(r"\.(mask_units|per_budget)\.(b\d+)\.")


def start_from(network: AdaptiveNetwork, spec: ModelSpec, path: str | Path, classes: Sequence[str] | None = None,
               reset_head: bool = False, images: Iterable[Tensor] = ()) -> list[str]:
    """Give a network the weights of a trained one, mask units and norms of its budgets included.

    A budget that the file lacks begins with the mask units and norms of the nearest one that it has, of two the lower;
    where the file has none below 1, with the dense network's norms and fresh mask units. The outputs of the same
    classes in another order are put into this one.

    Args:
        network: of the form `spec`, with fresh weights.
        path: a checkpoint of bdsa-train or a file of bdsa-export.
        classes: the names of the data's classes.
        reset_head: keep the network's fresh classifier where the file's is of other classes.
        images: batches [B, 3, H, W] as inference sees them; read only where shortcuts become projections.

    Returns:
        Sentences that a user should see.

    Raises:
        UserError: if the file's network has another form, or other classes without `reset_head`.
    """
    content = read_checkpoint(path)
    stated = ModelSpec(**content["model"])
    projections = gains_projections(stated, spec)
    of_budgets = ("norm_affine", "mask_norm") if Budgets(stated.budgets).adaptive else ()
    for name in ("name", *of_budgets, *(() if projections else ("args",))):
        if getattr(stated, name) != getattr(spec, name):
            raise UserError(f"model.start={path} has {name}={getattr(stated, name)}, this run asks for "
                            f"{getattr(spec, name)}")
    order = _order(content.get("classes"), stated.num_classes, classes, spec.num_classes)
    if order is None and not reset_head:
        raise UserError(f"model.start={path} has {_described(content.get('classes'), stated.num_classes)}, the data "
                        f"{_described(classes, spec.num_classes)}: set model.reset_head=true to train a new classifier")
    start = load_network(content, path)
    if projections:
        start = with_projections(start, stated, images)
    own, trained = network.state_dict(), start.state_dict()
    head = head_names(network)
    nearest = {b.name: nearest_budget(b, Budgets(stated.budgets).adaptive) for b in Budgets(spec.budgets).adaptive}
    network.load_state_dict({name: _tensor(name, own, trained, head, order, nearest) for name in own})
    notes = [f"budget {b:g} is not in {path} and begins from its {from_:g}" if (from_ := nearest[b.name]) is not None
             else f"budget {b:g} is not in {path} and begins from its dense network"
             for b in Budgets(spec.budgets).adaptive if nearest[b.name] != b]
    if of_budgets and stated.submanifold != spec.submanifold:
        notes.append(f"{path} has submanifold={str(stated.submanifold).lower()}: at the same masks the blocks of this "
                     f"network give other outputs and spend other MACs")
    if projections:
        notes.append(f"the shortcuts of {path} are padding (A) and begin here as projections (B) that do the same")
    return notes + ["the classifier is new: the data have other classes than the start"] * (order is None)


def match_classes(network: AdaptiveNetwork, path: str | Path, classes: Sequence[str], reset_head: bool = False) -> None:
    """Put the outputs of a network that was loaded from dense weights into the order of the data's classes.

    Files of others do not name their classes: their outputs are taken to be in the data's order.

    Args:
        network: with the weights of that file, and as many outputs as there are classes.
        reset_head: make the classifier new where the file's is of other classes.

    Raises:
        UserError: if the file names other classes, without `reset_head`.
    """
    named = (find_checkpoint(path) or {}).get("classes")
    if named is None or len(named) != len(classes) or list(named) == list(classes):  # another number: it is new already
        return
    order, state, count = _order(named, len(named), classes, len(classes)), network.state_dict(), len(classes)
    head = [n for n in head_names(network) if state[n].shape[:1] == (count,)]
    if not head:
        raise UserError(f"model.weights={path} has {_described(named, count)}, the data "
                        f"{_described(classes, count)}, and the classifier of this network is not known: give it "
                        f"get_classifier()")
    if order is not None:
        network.load_state_dict({**state, **{n: state[n][torch.tensor(order)] for n in head}})
    elif not reset_head:
        raise UserError(f"model.weights={path} has {_described(named, len(named))}, the data "
                        f"{_described(classes, len(classes))}: set model.reset_head=true to train a new classifier")
    else:
        for name in {n.rpartition(".")[0] for n in head}:
            getattr(network.get_submodule(name), "reset_parameters", lambda: None)()


def head_names(network: AdaptiveNetwork) -> set[str]:
    """The names of the classifier's tensors."""
    classifier = getattr(network, "get_classifier", lambda: None)()
    found = next((f"{name}." for name, module in network.named_modules() if module is classifier), None)
    names = {n for n in network.state_dict() if found is not None and n.startswith(found)}
    return names or {n for n in network.state_dict() if n in ("fc.weight", "fc.bias")}


def nearest_budget(budget: Budget, there: Sequence[Budget]) -> Budget | None:
    """The nearest of the budgets that there are, of two the lower."""
    return min(there, key=lambda b: (round(abs(b - budget), 6), b), default=None)


def _order(start: list[str] | None, count: int, wanted: Sequence[str] | None, asked: int) -> list[int] | None:
    """The start's output of each wanted class, or None where the classes are others."""
    if count != asked:
        return None
    if start is None or wanted is None or list(wanted) == start:
        return list(range(count))
    if len({*start}) == count and {*start} == {*wanted}:
        return [start.index(name) for name in wanted]
    return None


def _tensor(name: str, own: dict[str, Tensor], trained: dict[str, Tensor], head: set[str], order: list[int] | None,
            nearest: dict[str, Budget | None]) -> Tensor:
    """The start's tensor for one of the network's, or the network's own where the start has none for it."""
    if name in head:
        return own[name] if order is None else trained[name][torch.tensor(order)]
    if match := OF_A_BUDGET.search(name):
        source = nearest[match[2]]
        if source is None and match[1] == "mask_units":
            return own[name]
        there = "." if source is None else f".{match[1]}.{source.name}."
        return trained.get(name[:match.start()] + there + name[match.end():], own[name])
    return trained[name]


def _described(names: Sequence[str] | None, count: int) -> str:
    return f"{count} classes" + (f" ({shortened(names)})" if names else "")
