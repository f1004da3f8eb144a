"""Where evaluations go by themselves: what measures something else lies in a folder of its own."""
from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from bdsa.commands.result_folders import evaluation_folder, home_of
from bdsa.config.commands import AskedBudgets, EvaluateConfig
from bdsa.config.settings import DataConfig, ModelConfig, TrainerConfig

RUN = "runs/a/checkpoints/best.pt"
MANY = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
MEASUREMENTS: list[dict[str, Any]] = [
    {}, {"cascade": True}, {"per_image": True}, {"extrapolate": True}, {"precision": "int8"}, {"precision": "bfloat16"},
    {"execution": "masked"}, {"budgets": AskedBudgets([0.3])}, {"budgets": AskedBudgets([0.3, 0.5])},
    {"budgets": AskedBudgets(MANY)}, {"budgets": AskedBudgets([*MANY[:-1], 0.85])},
    {"budgets": AskedBudgets([0.3]), "cascade": True}, {"trainer": TrainerConfig(limit_eval_images=100)},
    {"data": DataConfig(name="", root="photos")}, {"data": DataConfig(name="", root="elsewhere/others")},
    {"checkpoint": "runs/a/checkpoints/best_ema.pt"}, {"checkpoint": "runs/b/checkpoints/best.pt"},
    {"checkpoint": "published/one/network.safetensors"}, {"checkpoint": "published/two/network.safetensors"},
    {"checkpoint": "published/two/network.v2.safetensors"},
    {"checkpoint": None, "model": ModelConfig(name="resnet18", weights="first.pt")},
    {"checkpoint": None, "model": ModelConfig(name="resnet18", weights="second.pt")},
    {"checkpoint": None, "model": ModelConfig(name="resnet18", pretrained=True)},
]


def folder_of(measured: dict[str, Any], data: str = "folder", split: str = "test") -> Path:
    return evaluation_folder(EvaluateConfig(**{"checkpoint": RUN, **measured}), data, split)


def test_no_measurement_takes_the_place_of_another() -> None:
    folders = [folder_of(measured) for measured in MEASUREMENTS]
    folders += [folder_of({}, split="val"), folder_of({}, data="cifar10")]
    twice = [(one, two) for one, two in combinations(range(len(folders)), 2) if folders[one] == folders[two]]
    assert not twice, [str(folders[one]) for one, _ in twice]


def test_the_same_measurement_has_the_same_folder_in_any_order_of_its_budgets() -> None:
    assert folder_of({"budgets": AskedBudgets([0.5, 0.3])}) == folder_of({"budgets": AskedBudgets([0.3, 0.5])})
    assert folder_of({}) == Path("runs/a/evaluations/best-folder-test")
    assert folder_of({"out": "mine", "cascade": True}) == Path("mine")


@pytest.mark.parametrize(("checkpoint", "home", "name"), [
    (RUN, "runs/a", "best"), ("checkpoints/last.pt", ".", "last"), ("model_best.pth.tar", "runs", "model_best"),
    ("kept/network.safetensors", "runs", "kept-network")])
def test_a_file_of_no_run_is_told_from_its_namesakes(checkpoint: str, home: str, name: str) -> None:
    found, called = home_of(checkpoint)
    assert found == Path(home) and called.endswith(name)
