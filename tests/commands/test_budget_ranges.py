"""Budgets between those that were trained, on the command line: evaluated, kept in files, and found where they lack."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import TINY, run

import bdsa
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import train as train_main
from bdsa.config.ranges import with_ranges
from bdsa.errors import UserError
from bdsa.models.checkpoints import read_checkpoint
from bdsa.models.weights_file import write_weights_file


@pytest.mark.parametrize(("given", "becomes"), [
    ("budgets.targets=[0.3:1.0:0.1]", "budgets.targets=[0.3,0.4,0.5,0.6,0.7,0.8,0.9,1]"),
    ("budgets.targets=[0.3:0.5:0.05,0.9]", "budgets.targets=[0.3,0.35,0.4,0.45,0.5,0.9]"),
    ("budgets.targets=[0.3:0.4:0.1],[0.5]", "budgets.targets=[0.3,0.4],[0.5]"),
    ("budgets.targets=[0.3,0.5]", "budgets.targets=[0.3,0.5]"), ("data.root=a:b:c", "data.root=a:b:c")])
def test_a_range_is_written_out(given: str, becomes: str) -> None:
    assert with_ranges(given) == becomes


@pytest.mark.parametrize("given", ["[0.3:0.5]", "[0.5:0.3:0.1]", "[0.3:0.5:0]", "[a:b:c]", "[0.1:1:1e-9]", "[1:2:nan]"])
def test_a_range_of_nothing_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="FIRST:LAST:STEP"):
        with_ranges(f"budgets.targets={given}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    outcome = run(train_main, [*TINY, f"out={folder.parent}", f"name={folder.name}", "recipe.epochs=1",
                               "budgets.targets=[0.4,0.8]", "budgets.calibration_images=96", "data.augmentation=none"])
    assert outcome.code == 0, outcome.err
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_a_range_of_budgets_is_evaluated_and_met(trained: Path, tmp_path: Path) -> None:
    asked = [f"checkpoint={trained}/checkpoints/best.pt", "budgets.targets=[0.4:1.0:0.15]", "split=train",
             f"out={tmp_path}"]
    assert run(evaluate_main, asked).code == 0
    rows = results(tmp_path)["rows"]
    assert [row["budget"] for row in rows] == [0.4, 0.55, 0.7, 0.85, 1.0]
    assert [row["conditional_fraction"] for row in rows] == pytest.approx([0.4, 0.55, 0.7, 0.85, 1.0], abs=0.04)
    assert run(evaluate_main, [*asked, "per_image=true"]).code == 0
    exact = results(tmp_path)
    assert exact["per_image"] and all(row["largest_fraction"] <= row["budget"] for row in exact["rows"])
    asked[1] = "budgets.targets=[0.3]"
    assert run(evaluate_main, [*asked, "extrapolate=true"]).code == 0


@pytest.mark.slow
def test_curves_are_in_the_checkpoint_the_results_and_the_exported_file(trained: Path, tmp_path: Path) -> None:
    stated = read_checkpoint(trained / "checkpoints/best.pt")["curves"]
    assert [*stated] == ["b040", "b080"] and results(trained)["curves"] == stated
    path = tmp_path / "net.safetensors"
    assert run(export_main, [f"checkpoint={trained}/checkpoints/best.pt", f"out={path}"]).code == 0
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(bdsa.load(path)(images, budget=0.55),
                           bdsa.load(trained / "checkpoints/best.pt")(images, budget=0.55))


@pytest.mark.slow
def test_a_file_without_curves_gets_them_from_an_evaluation(trained: Path, tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare.safetensors", tmp_path / "whole.safetensors"
    content = read_checkpoint(trained / "checkpoints/best.pt")
    curves = content.pop("curves")
    write_weights_file(bare, content)
    outcome = run(export_main, [f"checkpoint={bare}", f"out={whole}"])
    assert "no curves" in outcome.out
    with pytest.raises(UserError, match="its curves are missing"):
        bdsa.load(bare)(torch.zeros(1, 3, 32, 32), budget=0.55)
    outcome = run(evaluate_main, [f"checkpoint={bare}", "budgets.targets=[0.4,0.55]", f"out={tmp_path}",
                                  "curve_images=96", "execution=masked"])
    assert outcome.code == 0 and "curves" in outcome.out, outcome.err
    assert results(tmp_path)["curves"].keys() == curves.keys()
    outcome = run(export_main, [f"checkpoint={bare}", f"out={whole}", f"curves={tmp_path}/results.json"])
    assert outcome.code == 0 and "no curves" not in outcome.out, outcome.err
    assert bdsa.load(whole)(torch.zeros(1, 3, 32, 32), budget=0.55).shape == (1, 10)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**results(tmp_path), "weights_digest": "of another network"}))
    outcome = run(export_main, [f"checkpoint={bare}", f"out={whole}", f"curves={other}"])
    assert outcome.code == 1 and "other weights" in outcome.err
    outcome = run(export_main, [f"checkpoint={bare}", f"out={whole}", f"curves={trained}/config.yaml"])
    assert outcome.code == 1 and "no results.json with curves" in outcome.err


@pytest.mark.slow
def test_a_training_measures_how_sure_its_network_is_and_its_file_runs_as_a_cascade(trained: Path, tmp_path: Path
                                                                                   ) -> None:
    path, images = trained / "checkpoints/best.pt", torch.randn(5, 3, 32, 32)
    stated = read_checkpoint(path)["confidence"]
    assert (stated["budgets"], stated["images"]) == ([0.4, 0.8], 40) and results(trained)["confidence"] == stated
    asked = ["cascade=true", "budgets.targets=[0.4,0.55,0.9,1.0]", "execution=masked", "trainer.latency=true"]
    outcome = run(evaluate_main, [f"checkpoint={path}", *asked, f"out={tmp_path}/a"])
    assert outcome.code == 0 and "note: the checkpoint" not in outcome.out, outcome.err
    made = results(tmp_path / "a")
    fractions = [row["conditional_fraction"] for row in made["rows"]]
    assert made["cascade"] and fractions == sorted(fractions) and fractions[-1] == 1.0
    assert all(row["latency_ms"] > 0 for row in made["rows"]) and made["latency"]["images"] > 16
    assert f"the mean of {made['latency']['images']}, " in outcome.out
    low, high = stated["fractions"]
    assert low + 0.02 < fractions[1] < fractions[2] - 0.02 and fractions[2] < low + high + 0.1

    bare, whole = tmp_path / "bare.safetensors", tmp_path / "whole.safetensors"
    content = read_checkpoint(path)
    del content["confidence"]
    write_weights_file(bare, content)
    outcome = run(evaluate_main, [f"checkpoint={bare}", *asked, f"out={tmp_path}/b"])
    assert outcome.code == 0 and "measured on 40 images of val, without their labels" in outcome.out, outcome.err
    assert run(export_main, [f"checkpoint={bare}", f"out={whole}", f"curves={tmp_path}/b/results.json"]).code == 0
    with torch.inference_mode():
        assert torch.equal(bdsa.load(whole)(images, budget=0.55, cascade=True),
                           bdsa.load(path)(images, budget=0.55, cascade=True))
    for wrong, says in (("budgets.targets=[0.2,0.5]", "budget 0.2 is below 0.4"), (f"out={bare}", "bare.safetensors")):
        outcome = run(evaluate_main, [f"checkpoint={bare}", "cascade=true", wrong])
        assert outcome.code == 1 and says in outcome.err and "measured on" not in outcome.out, outcome

    content["confidence"] = {**stated, "fractions": [0.3, 0.4]}  # 0.8 is more than both looks take
    write_weights_file(bare, content)
    outcome = run(evaluate_main, [f"checkpoint={bare}", "cascade=true", "execution=masked", f"out={tmp_path}/c"])
    assert outcome.code == 0 and (tmp_path / "c/pictures/masks.png").exists(), outcome.err
    assert [row["budget"] for row in results(tmp_path / "c")["rows"]] == [0.4, 1.0]


@pytest.mark.slow
def test_a_training_whose_network_can_be_no_cascade_ends_all_the_same(tmp_path: Path, monkeypatch) -> None:
    taken = []

    def refuse(network, batches) -> None:
        taken.append(sum(map(len, batches)))
        raise UserError("no cheaper first look")

    monkeypatch.setattr("bdsa.training.results.calibrate_confidence", refuse)
    outcome = run(train_main, [*TINY, f"out={tmp_path}", "name=a", "recipe.epochs=1", "trainer.limit_eval_images=8"])
    assert outcome.code == 0 and taken == [8], outcome.err
    assert "confidence" not in results(tmp_path / "a")
    assert "no cascade: no cheaper" in (tmp_path / "a/train.log").read_text()


def test_a_cascade_that_cannot_be_is_refused_before_any_data_are_read(tmp_path: Path) -> None:
    outcome = run(evaluate_main, [f"checkpoint={tmp_path}/no.pt", "cascade=true", "per_image=true"])
    assert outcome.code == 1 and "leave out one of them" in outcome.err
    outcome = run(evaluate_main, ["model=resnet18", "cascade=true"])
    assert outcome.code == 1 and "checkpoint=PATH" in outcome.err
    model = bdsa.create_model("cifar_resnet8", [0.5], 10)
    bdsa.save(model, tmp_path / "one.safetensors")
    outcome = run(evaluate_main, [f"checkpoint={tmp_path}/one.safetensors", "cascade=true", "data=cluttered_digits",
                                  "data.val_images=20", "data.train_images=20"])
    assert outcome.code == 1 and "trained for one budget" in outcome.err


@pytest.mark.slow
def test_curves_of_another_network_are_refused(trained: Path, tmp_path: Path) -> None:
    content = read_checkpoint(trained / "checkpoints/best.pt")
    for name, curve in content["curves"].items():
        content["curves"][name] = {**curve, "blocks": [row[:1] for row in curve["blocks"]]}
    write_weights_file(tmp_path / "other.safetensors", content)
    with pytest.raises(UserError, match="no curves of this network"):
        bdsa.load(tmp_path / "other.safetensors")
    content["curves"] = {"b040": content["curves"]["b040"]}
    write_weights_file(tmp_path / "some.safetensors", content)
    with pytest.raises(UserError, match="curves are of b040, not of b040, b080"):
        bdsa.load(tmp_path / "some.safetensors")
