"""Evaluate on other images than the training's: labels are matched by name, and nothing is inherited unasked."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image

import bdsa
from bdsa.commands.asked_data import data_settings
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import visualize as visualize_main
from bdsa.config.settings import DataConfig
from bdsa.data.datasets import DataSpec, create_splits
from bdsa.errors import UserError
from bdsa.models.checkpoints import ModelSpec, network_content, save
from bdsa.models.start import match_classes

CLASSES = ["ant", "bee", "cow", "dog"]
COUNT = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network, and 200 test images in folders of the classes that it sees in them: it is always right."""
    folder, pictures = tmp_path_factory.mktemp("other"), np.random.default_rng(0)
    for i in range(COUNT):
        path = folder / "all/test" / ("some" if i % 2 else "other") / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pictures.integers(0, 256, 3) + pictures.integers(-40, 40, (32, 32, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    torch.manual_seed(0)
    spec = ModelSpec("cifar_resnet8", len(CLASSES), [0.5])
    network = spec.build().eval()
    test = create_splits(DataSpec("folder", str(folder / "all"), augmentation="none")).test
    images = torch.stack([test[i][0] for i in range(COUNT)])
    with torch.no_grad():
        network.fc.bias.zero_()
        network.fc.bias -= network(images).mean(dim=0)
        seen = network(images).argmax(dim=1).tolist()
    assert len({*seen}) == len(CLASSES)
    for (path, _), label in zip(test.source.samples, seen):
        (folder / "data/test" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "data/test" / CLASSES[label])
    data = {"name": "folder", "root": str(folder / "data"), "augmentation": "none", "held_out": 500.0, "workers": 0}
    save(folder / "run/checkpoints/best.pt", network_content(network, spec, classes=CLASSES, config={"data": data}))
    save(folder / "unnamed.pt", network_content(network, spec, config={"data": data}))
    save(folder / "shuffled.pt", network_content(network, spec, classes=[*"wxyz"], config={"data": data}))
    return folder


def evaluated(checkpoint: Path, out: Path, *arguments: str) -> tuple[float, str]:
    """Top-1 of the dense network, and what was printed."""
    outcome = run(evaluate_main, [f"checkpoint={checkpoint}", f"out={out}", "budgets.targets=[1.0]",
                                  "trainer.pictures=0", "execution=masked", *arguments])
    assert outcome.code == 0, outcome.err
    return json.loads((out / "results.json").read_text())["rows"][0]["top1"], outcome.out


def renamed(folder: Path, out: Path, names: dict[str, str]) -> Path:
    """The test images with their class folders renamed; those without a new name are left out."""
    for old, new in names.items():
        shutil.copytree(folder / "data/test" / old, out / "test" / new)
    return out


def test_a_folder_of_test_images_alone_is_evaluated(folder: Path, tmp_path: Path) -> None:
    """And the images that the training held out are not asked for."""
    top1, said = evaluated(folder / "run/checkpoints/best.pt", tmp_path)
    assert top1 == 100 and "does not name its classes" not in said


def dense_of(folder: Path, path: Path, classes: list[str]) -> Path:
    """The dense network in a file of its own, with its outputs in this order, trained on images of another scale."""
    whole, dense = bdsa.load(folder / "run/checkpoints/best.pt"), ModelSpec("cifar_resnet8", 4, [1.0]).build()
    dense.load_state_dict({name: whole.state_dict()[name] for name in dense.state_dict()})
    order = [CLASSES.index(name) if name in CLASSES else i for i, name in enumerate(classes)]
    with torch.no_grad():
        dense.fc.weight.copy_(dense.fc.weight[order]), dense.fc.bias.copy_(dense.fc.bias[order])
        dense.conv1.weight.mul_(0.5 / 0.25)  # images are divided by twice as much
    data = {"name": "folder", "mean": [0.485, 0.456, 0.406], "std": [0.5 * s / 0.25 for s in (0.229, 0.224, 0.225)]}
    save(path, network_content(dense, ModelSpec("cifar_resnet8", 4, [1.0]), classes=classes, config={"data": data}))
    return path


def test_dense_weights_of_a_run_keep_their_classes_and_how_they_saw_images(folder: Path, tmp_path: Path) -> None:
    path = dense_of(folder, tmp_path / "dense.pt", ["cow", "ant", "dog", "bee"])
    asked = ["model=cifar_resnet8", "data=folder", f"data.root={folder}/data", "data.augmentation=none",
             f"out={tmp_path}/out", "trainer.pictures=0"]
    outcome = run(evaluate_main, [*asked, f"model.weights={path}"])
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/results.json").read_text())["rows"][0]["top1"] == 100
    outcome = run(evaluate_main, [*asked, f"model.weights={dense_of(folder, tmp_path / 'other.pt', [*'wxyz'])}"])
    assert outcome.code == 1 and "was trained for the classes w, x, y, z, the data have ant, bee, cow" in outcome.err


def test_a_training_begins_with_dense_weights_in_the_order_of_its_classes(folder: Path, tmp_path: Path) -> None:
    path = dense_of(folder, tmp_path / "dense.pt", ["cow", "ant", "dog", "bee"])
    network = bdsa.create_model("cifar_resnet8", [0.5], 4, weights=path)
    before = network.fc.weight.detach().clone()
    match_classes(network, path, CLASSES)
    assert torch.equal(network.fc.weight, before[[1, 3, 0, 2]])
    with pytest.raises(UserError, match=r"4 classes \(ant, bee, cow, dog\), the data 4 .*reset_head=true"):
        match_classes(network, dense_of(folder, tmp_path / "all.pt", CLASSES), [*"wxyz"])
    before = network.fc.weight.detach().clone()
    match_classes(network, tmp_path / "all.pt", [*"wxyz"], reset_head=True)
    assert not torch.equal(network.fc.weight, before)


def test_a_part_of_the_classes_keeps_its_outputs(folder: Path, tmp_path: Path) -> None:
    data = renamed(folder, tmp_path / "data", {name: name for name in CLASSES[1:]})
    top1, _ = evaluated(folder / "run/checkpoints/best.pt", tmp_path / "out", "data=folder", f"data.root={data}")
    assert top1 == 100


@pytest.mark.parametrize("names", [
    {name: f"n{i}" for i, name in enumerate(CLASSES)},                        # in the same order
    dict(zip(CLASSES, ["zebra", *CLASSES[1:]])),                             # one of them
])
def test_renamed_folders_are_refused_with_both_lists(folder: Path, tmp_path: Path, names: dict[str, str]) -> None:
    data = renamed(folder, tmp_path / "data", names)
    outcome = run(evaluate_main, [f"checkpoint={folder}/run/checkpoints/best.pt", f"data.root={data}", "data=folder",
                                  f"out={tmp_path}/out"])
    assert outcome.code == 1 and outcome.err.strip().count("\n") == 0
    for listed in ("the classes ant, bee, cow, dog", f"the data have {', '.join(sorted(names.values()))}"):
        assert listed in outcome.err
    outcome = run(visualize_main, [f"checkpoint={folder}/run/checkpoints/best.pt", f"data.root={data}", "data=folder",
                                   f"out={tmp_path}/out"])
    assert outcome.code == 1 and "classes ant, bee, cow, dog" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_names_is_used_with_a_note(folder: Path, tmp_path: Path) -> None:
    top1, said = evaluated(folder / "unnamed.pt", tmp_path)
    assert top1 == 100 and "does not name its classes: those of the data are taken in their order" in said


def test_pictures_say_the_networks_names(folder: Path, tmp_path: Path) -> None:
    """Of single files, whose folders are named otherwise, as of the split."""
    outcome = run(visualize_main, [f"checkpoint={folder}/run/checkpoints/best.pt", f"images={folder}/all/test/some",
                                   "count=4", "pictures=[density]", f"out={tmp_path}"])
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "densities.json").read_text())
    said = {answer["predicted"] for image in record["images"] for answer in image["budgets"].values()}
    assert said <= {*CLASSES}


TRAINED = {"config": {"data": {"name": "cifar10", "root": "/data", "download": True, "held_out": 500.0}}}


def test_a_checkpoints_word_alone_downloads_nothing() -> None:
    assert not data_settings(DataConfig(name=""), TRAINED).download
    assert data_settings(DataConfig(name="", download=True), TRAINED).download


def test_images_are_seen_at_the_size_of_the_training() -> None:
    trained = {"config": {"data": {"name": "folder", "image_size": None}}, "image_size": 32}
    assert data_settings(DataConfig(name=""), trained).image_size == 32
    assert data_settings(DataConfig(name="", image_size=48), trained).image_size == 48
    assert data_settings(DataConfig(name=""), trained, {"data.image_size"}).image_size is None


@pytest.mark.parametrize("split, held_out", [(None, None), ("test", None), ("held_out", 500.0), ("train", 500.0)])
def test_images_are_held_out_where_the_split_asks_for_it(split: str | None, held_out: float | None) -> None:
    assert data_settings(DataConfig(name=""), TRAINED, split=split).held_out == held_out


def test_a_default_that_the_command_line_names_counts() -> None:
    asked = DataConfig(name="")
    assert data_settings(asked, TRAINED, {"data.held_out"}, "train").held_out is None
    trained = {"config": {"data": {"name": "folder", "resize": 64, "augmentation": "auto"}}}
    changed = data_settings(asked, trained, {"data.resize", "data.augmentation"})
    assert (changed.name, changed.resize, changed.augmentation) == ("folder", None, asked.augmentation)


@pytest.mark.parametrize("option, trained, kept", [
    ({"name": "folder", "root": "/d", "augmentation": "auto"}, {"augmentation": "crop_flip", "root": "/e"},
     {"augmentation": "crop_flip", "root": "/d"}),
    ({"name": "cluttered_digits", "image_size": 40, "test_images": 2000, "workers": 0},
     {"image_size": 32, "test_images": 60}, {"image_size": 32, "test_images": 60, "workers": 0})])
def test_naming_the_trainings_own_data_set_changes_no_image(option: dict, trained: dict, kept: dict) -> None:
    """An option under conf/data fills settings that nobody asked for."""
    content = {"config": {"data": {**trained, "name": option["name"]}}}
    found = data_settings(DataConfig(**option), content, {"checkpoint", "data", *["data.root"] * ("root" in option)})
    assert {name: getattr(found, name) for name in kept} == kept
    assert data_settings(DataConfig(**{**option, "image_size": 48}), content, {"data", "data.image_size"}
                         ).image_size == 48


@pytest.mark.parametrize("data", [
    {"root": "/data"}, {"name": None}, {"name": 3}, *({"name": "folder", **wrong} for wrong in (
        {"further": 1}, {"resize": "48"}, {"resize": -1}, {"mean": "grey"}, {"held_out": float("nan")},
        {"image_size": [1, 2, 3]}, {"image_size": {}}, {"root": ["x"]}, {"download": 1}, {"workers": 10**9})),
])
def test_what_a_checkpoint_says_of_its_data_is_held_to_the_rules(data: dict) -> None:
    with pytest.raises(UserError) as error:
        data_settings(DataConfig(name=""), {"config": {"data": data}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("main", [evaluate_main, visualize_main, export_main])
@pytest.mark.parametrize("wrong", [{"args": {"pretrained_cfg": {"url": "http://example.org/x"}}}, {"budgets": "many"},
                                   {"name": 3}, {"num_classes": 10**30}, None])
def test_a_malformed_checkpoint_is_one_line_in_every_command(main, wrong: dict | None, folder: Path, tmp_path: Path,
                                                             monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    content = torch.load(folder / "unnamed.pt", weights_only=True)
    content["model"] = None if wrong is None else {**content["model"], **wrong}
    torch.save(content, tmp_path / "sent.pt")
    outcome = run(main, [f"checkpoint={tmp_path}/sent.pt"])
    assert outcome.code == 1 and "sent.pt is no sound checkpoint" in outcome.err, outcome.err
    assert outcome.err.strip().count("\n") == 0 and not asked
    assert [path.name for path in tmp_path.iterdir()] == ["sent.pt"]
