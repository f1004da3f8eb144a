"""Weights as people have them: what training scripts, torch.compile, Lightning and thop leave in files."""
from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from timm import create_model
from torch import nn

from bdsa.errors import UserError
from bdsa.models.weights import load_dense_weights, read_file, state_dict_of

NAME = "cifar_resnet8"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return create_model(NAME, num_classes=4).state_dict()


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def with_counts(state: dict) -> dict:
    """As thop leaves them: two at the top and two in every module."""
    counts = {f"{module}{count}": torch.zeros(1, dtype=torch.float64) for count in ("total_ops", "total_params")
              for module in ("", "conv1.", "layer1.0.bn1.")}
    return {**state, **counts}


FILES = {
    "parsed arguments": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, out=Path("runs"))},
    "torch.compile": lambda s: prefixed(s, "_orig_mod."),
    "data parallel": lambda s: {"model": prefixed(s, "module.")},
    "both": lambda s: prefixed(s, "module._orig_mod."),
    "both, the other way round": lambda s: prefixed(s, "_orig_mod.module."),
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}, "loss": 0.3},
    "net": lambda s: {"net": prefixed(s, "module."), "acc": 93.1, "epoch": 200},
    "model": lambda s: {"model": s},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.4", "callbacks": {}},
    "Lightning and torch.compile": lambda s: {"state_dict": prefixed(s, "model._orig_mod.")},
    "thop": lambda s: with_counts(s),
    "the average alone": lambda s: {"state_dict_ema": s, "epoch": 3},
    "ema": lambda s: {"ema": {"module": s}},
    "AveragedModel": lambda s: {**prefixed(s, "module."), "n_averaged": torch.tensor(7)},
}


@pytest.mark.parametrize("kind", FILES)
def test_the_weights_are_read_whole(kind: str, state: dict, tmp_path: Path) -> None:
    torch.save(FILES[kind](state), tmp_path / "weights.pt")
    network = create_model(NAME, num_classes=4)
    load_dense_weights(network, tmp_path / "weights.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_trained_weights_are_taken_before_their_average(state: dict) -> None:
    average = {name: tensor + 1 for name, tensor in state.items()}
    found = state_dict_of({"state_dict_ema": average, "ema": average, "state_dict": state})
    assert torch.equal(found["fc.weight"], state["fc.weight"])


def test_a_prefix_that_is_part_of_some_names_alone_is_kept() -> None:
    mixed = {"model.weight": torch.ones(1), "fc.weight": torch.ones(1)}
    assert {*state_dict_of(mixed)} == {*mixed}


class Own:
    """An object of a script, which nothing here knows."""


class Command:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("make", [
    lambda file: {"state_dict": {}, "args": Own()},
    lambda file: {"state_dict": {}, "args": argparse.Namespace(hook=Command(file))},
    lambda file: {"model": nn.Linear(2, 2)},
])
def test_other_objects_are_refused_and_nothing_runs(make, tmp_path: Path) -> None:
    torch.save(make(tmp_path / "ran"), tmp_path / "weights.pt")
    with (tmp_path / "plain.pt").open("wb") as file:
        pickle.dump(make(tmp_path / "ran"), file, protocol=2)
    for name in ("weights.pt", "plain.pt"):
        with pytest.raises(UserError, match="is refused"):
            read_file(tmp_path / name)
    assert not (tmp_path / "ran").exists()
