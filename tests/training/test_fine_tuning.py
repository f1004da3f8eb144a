"""Fine-tune a trained network on other classes and budgets by command, and what stops it before it starts."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from command_line import TINY, run
from PIL import Image

from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.models.checkpoints import ModelSpec, network_content, read_checkpoint, save

pytestmark = pytest.mark.slow

SHORT = [*(a for a in TINY if not a.startswith(("recipe.epochs", "data."))), "recipe.epochs=1", "recipe.batch_size=4",
         "recipe.lr=1e-12", "recipe.schedule=constant", "recipe.weight_decay=0", "budgets.calibrate=false",
         "data=folder", "data.workers=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network of three animals at 0.3, and a folder of two others."""
    folder = tmp_path_factory.mktemp("fine")
    torch.manual_seed(5)
    spec = ModelSpec("cifar_resnet8", 3, [0.3])
    save(folder / "start.pt", network_content(spec.build(), spec, classes=["ant", "bee", "cow"]))
    for split in ("train", "val"):
        for number, name in enumerate(("fox", "owl")):
            (folder / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (32, 32), (90 * number, 20 * i, 0)).save(folder / "data" / split / name / f"{i}.png")
    return folder


def trained(folder: Path, *arguments: str):
    return run(train_main, [*SHORT, f"data.root={folder}/data", f"out={folder}", *arguments])


def test_another_data_set_and_more_budgets(folder: Path) -> None:
    arguments = [f"model.start={folder}/start.pt", "budgets.targets=[0.3,0.6]", "name=on"]
    outcome = trained(folder, *arguments)
    assert outcome.code == 1 and "model.reset_head=true" in outcome.err and outcome.err.strip().count("\n") == 0
    outcome = trained(folder, *arguments, "model.reset_head=true")
    assert outcome.code == 0, outcome.err
    content, before = read_checkpoint(folder / "on/checkpoints/best.pt"), read_checkpoint(folder / "start.pt")
    assert content["classes"] == ["fox", "owl"] and content["state_dict"]["fc.weight"].shape == (2, 64)
    for name, tensor in content["state_dict"].items():
        if ".mask_units." in name or name == "conv1.weight":  # at this learning rate nothing moves
            assert torch.allclose(tensor, before["state_dict"][name.replace("b060", "b030")], atol=1e-6), name


def test_a_training_does_not_go_on_with_other_classes_or_from_a_damaged_file(folder: Path) -> None:
    command = ["budgets.targets=[0.5]", "name=stopped"]
    assert trained(folder, *command).code == 0
    run_folder = folder / "stopped"
    (run_folder / "results.json").unlink()
    last = run_folder / "checkpoints/last.pt"
    whole = last.read_bytes()

    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    last.write_bytes(broken)
    outcome = trained(folder, *command)
    assert outcome.code == 1 and "last.pt is damaged" in outcome.err and "trainer.fresh=true" in outcome.err
    assert outcome.err.strip().count("\n") == 0 and last.read_bytes() == broken

    content = read_checkpoint_bytes(whole, folder / "copy.pt")
    del content["optimizer"]
    save(last, content)
    outcome = trained(folder, *command)
    assert outcome.code == 1 and "lacks what a stopped training goes on from" in outcome.err

    last.write_bytes(whole)
    for split in ("train", "val"):
        (folder / "data" / split / "fox").rename(folder / "data" / split / "zebra")
    outcome = trained(folder, *command)
    for split in ("train", "val"):
        (folder / "data" / split / "zebra").rename(folder / "data" / split / "fox")
    assert outcome.code == 1 and "classes fox, owl, the data have owl, zebra now" in outcome.err


def read_checkpoint_bytes(content: bytes, path: Path) -> dict:
    path.write_bytes(content)
    return read_checkpoint(path)


def test_an_argument_that_no_checkpoint_may_state_is_refused_before_the_training(folder: Path) -> None:
    outcome = trained(folder, "budgets.targets=[0.5]", "name=never", "+model.args.checkpoint_path=weights.pt")
    assert outcome.code == 1 and "model.args 'checkpoint_path'" in outcome.err
    assert not (folder / "never").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"blocks": 3}', '{"blocks": {"1": [0.5]}, "threads": 1}'])
def test_a_damaged_calibration_is_passed_over(folder: Path, tmp_path: Path, content: str) -> None:
    """And a sound one is used without a word."""
    command = [f"checkpoint={folder}/start.pt", "data=folder", f"data.root={tmp_path}/data", f"out={tmp_path}/out",
               "trainer.pictures=0", "data.workers=0"]
    for name in ("ant", "bee"):
        shutil.copytree(folder / "data/val/fox", tmp_path / "data/test" / name)
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out/execution.json"
    kept.write_text(content)
    outcome = run(evaluate_main, command)
    assert outcome.code == 0 and "execution.json is damaged and passed over" in outcome.out, outcome.err
    if kept.read_text() != content:  # where this machine has sparse kernels
        assert "is damaged" not in run(evaluate_main, command).out
