"""Where evaluations go by themselves: what measures something else lies in a folder of its own."""
from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from bdsa.commands.result_folders import evaluation_folder, exported_file, home_of, visualization_folder
from bdsa.config.commands import AskedBudgets, EvaluateConfig, ExportConfig
from bdsa.config.settings import DataConfig, ModelConfig, TrainerConfig
from bdsa.config.visualize import MaskedBudgets, VisualizeConfig

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
    {"checkpoint": "/e1/weights/best.pt"}, {"checkpoint": "/e2/weights/best.pt"},
    {"checkpoint": "/e2/weights/best.pt", "published": "resnet18"},
    {"checkpoint": "/e2/weights/best.pt", "published": "resnet34"},
    {"data": DataConfig(name="folder", root="/a/val")}, {"data": DataConfig(name="folder", root="/b/val")},
    {"data": DataConfig(name="", image_size=40)}, {"data": DataConfig(name="", image_size=48)},
    {"checkpoint": None, "model": ModelConfig(name="resnet18", weights="runs/a/checkpoints/best.pt")},
    {"checkpoint": None, "model": ModelConfig(name="resnet18", weights="runs/b/checkpoints/best.pt")},
]
PROGRAMS: list[dict[str, Any]] = [
    {}, {"budgets": AskedBudgets([0.3])}, {"budgets": AskedBudgets([0.5])}, {"precision": "bfloat16"},
    {"format": "aoti"}, {"format": "onnx"}, {"per_image": True}, {"cascade": True}, {"between": True}]
SHOWN: list[dict[str, Any]] = [
    {}, {"budgets": MaskedBudgets([0.3])}, {"images": ["photos/a.png"]}, {"images": ["others/a.png"]},
    {"data": DataConfig(name="folder", root="/a/val")}, {"data": DataConfig(name="folder", root="/b/val")}]


def folder_of(measured: dict[str, Any], data: str = "folder", split: str = "test") -> Path:
    named = {f"data.{name}" for name in ("root", "image_size") if getattr(measured.get("data"), name, None)}
    return evaluation_folder(EvaluateConfig(**{"checkpoint": RUN, **measured}), data, split, named)


def twice(folders: list[Path]) -> list[str]:
    return [str(one) for one, other in combinations(folders, 2) if one == other]


def test_no_measurement_takes_the_place_of_another() -> None:
    folders = [folder_of(measured) for measured in MEASUREMENTS]
    folders += [folder_of({}, split="val"), folder_of({}, data="cifar10")]
    assert twice(folders) == []


def test_no_pictures_and_no_exported_file_take_the_place_of_others() -> None:
    assert twice([visualization_folder(VisualizeConfig(RUN, **shown), "images" if "images" in shown else "folder-test")
                  for shown in SHOWN]) == []
    files = [exported_file(ExportConfig(RUN, **{"format": "pt2", **program})) for program in PROGRAMS]
    assert twice(files) == [] and files[0] == Path("runs/a/checkpoints/best.pt2")
    assert visualization_folder(VisualizeConfig(RUN), "folder-test") == Path("runs/a/visualizations/best-folder-test")


def test_a_checkpoint_that_is_named_from_within_its_folder_is_its_runs(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a/checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/checkpoints")
    folder = folder_of({"checkpoint": "best.pt"})
    assert folder.resolve() == (tmp_path / "a/evaluations/best-folder-test").resolve()


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
