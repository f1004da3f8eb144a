"""What a user of bdsa-train and bdsa-evaluate relies on: results, resume, teachers, awareness, evaluation."""
from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from command_line import TINY, run
from omegaconf import OmegaConf
from small_runs import results, train

import bdsa
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.config.settings import TrainConfig, TrainerConfig
from bdsa.models.checkpoints import read_checkpoint
from bdsa.models.weights import read_file
from bdsa.runs.metrics import MetricsFile
from bdsa.runs.name import run_name
from bdsa.runs.tracker import NoTracker
from bdsa.training.device import slow_choices

pytestmark = pytest.mark.slow

LIST = "budgets.targets=[0.3,0.7,1.0]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    train(folder, LIST, "trainer.pictures=2")
    return folder


def test_the_folder_holds_what_the_readme_names(trained):
    made = results(trained)
    assert [r["name"] for r in made["rows"]] == ["b030", "b070", "b100"]
    assert made["model"] == "cifar_resnet8" and made["rows"][0]["images"] == 50
    network = bdsa.create_model("cifar_resnet8", [0.3, 0.7], num_classes=10)
    assert made["parameters"] == sum(p.numel() for p in network.parameters())
    assert made["dense_macs"] == made["rows"][2]["macs"] == network.dense_macs((32, 32))
    assert made["rows"][2]["conditional_fraction"] == 1.0
    assert made["rows"][0]["macs"] < made["rows"][1]["macs"]
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "train.log", "checkpoints/last.pt",
                 "checkpoints/best.pt", "pictures/masks.png", "pictures/curves.png"):
        assert (trained / name).stat().st_size > 0
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["command"].startswith("bdsa ") and environment["versions"]["torch"]


def test_metrics_have_a_line_per_epoch_and_budget(trained):
    rows = MetricsFile(trained / "metrics.jsonl").read()
    assert [(r["epoch"], r["name"]) for r in rows if r["kind"] == "eval"] == [
        (e, n) for e in (1, 2, 3) for n in ("b030", "b070", "b100")]
    steps = [r["step"] for r in rows if r["kind"] == "train"]
    assert steps == [6, 12, 18]
    assert [r["temperature"] for r in rows if r["kind"] == "train"] == [5.0, 2.5, 1.0]


def test_thresholds_are_calibrated_on_training_images(tmp_path):
    train(tmp_path / "yes", LIST, "budgets.calibration_images=96", "data.augmentation=none")
    outcome = run(evaluate_main, [f"checkpoint={tmp_path / 'yes/checkpoints/best.pt'}", "split=train"])
    rows = results(tmp_path / "yes/evaluations/best-cluttered_digits-train")["rows"]
    assert outcome.code == 0
    assert [r["conditional_fraction"] for r in rows] == pytest.approx([0.3, 0.7, 1.0], abs=0.01)


def test_evaluation_repeats_the_numbers_of_the_training(trained):
    before = (trained / "results.json").read_bytes()
    outcome = run(evaluate_main, [f"checkpoint={trained / 'checkpoints/best.pt'}"])
    assert outcome.code == 0, outcome.err
    made, own = results(trained / "evaluations/best-cluttered_digits-test"), results(trained)
    for key in ("rows", "weights_digest", "images_digest"):
        assert made[key] == own[key], key
    assert (trained / "results.json").read_bytes() == before
    for name in ("b030", "b070", "b100"):
        assert name in outcome.out


def test_evaluation_of_chosen_budgets_on_another_split(trained, tmp_path):
    outcome = run(evaluate_main, [f"checkpoint={trained / 'checkpoints/best.pt'}", "budgets.targets=[0.7]", "split=val",
                                  f"out={tmp_path}"])
    assert outcome.code == 0, outcome.err
    made = results(tmp_path)
    assert [r["name"] for r in made["rows"]] == ["b070"] and made["rows"][0]["images"] == 40


def test_the_same_command_again_shows_and_changes_nothing(trained):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*") if p.is_file()}
    outcome = train(trained, LIST)
    assert "b030" in outcome.out and "finished" in outcome.out
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_setting_in_the_same_folder_is_an_error(trained):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*") if p.is_file()}
    outcome = run(train_main, [*TINY, f"out={trained.parent}", f"name={trained.name}", LIST, "recipe.lr=0.5"])
    assert outcome.code == 1 and "recipe.lr: 0.002 -> 0.5" in outcome.err
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("has, amp, warned", [(False, "bfloat16", True), (True, "bfloat16", False),
                                              (False, "none", False)])
def test_a_precision_that_the_processor_lacks_is_named_before_hours_go_into_it(monkeypatch, has, amp, warned):
    monkeypatch.setattr("bdsa.training.device.multiplies_bfloat16", lambda: has)
    notes = slow_choices(torch.device("cpu"), TrainerConfig(amp=amp))
    assert len(notes) == warned and all("trainer.amp=none" in note for note in notes)
    assert not slow_choices(torch.device("cuda"), TrainerConfig(amp=amp))


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(trained, tmp_path, monkeypatch, stop_after):
    """Bit for bit, with the stop in the middle of an epoch's records or after the last epoch."""
    real = NoTracker.log_eval

    def stop(self, rows):
        if rows[0]["epoch"] == min(stop_after + 1, 3):
            raise KeyboardInterrupt
        real(self, rows)

    folder = tmp_path / "b"
    monkeypatch.setattr(NoTracker, "log_eval" if stop_after < 3 else "log_pictures",
                        stop if stop_after < 3 else lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(train_main, [*TINY, f"out={tmp_path}", "name=b", LIST, "trainer.pictures=2"]).code == 130
    assert not (folder / "results.json").exists()
    monkeypatch.undo()
    torch.rand(7)  # whatever was drawn before must not matter
    outcome = train(folder, LIST)
    assert f"resuming after epoch {stop_after}" in outcome.out
    for name in ("last.pt", "best.pt"):
        a, b = (read_file(p / "checkpoints" / name)["state_dict"] for p in (trained, folder))
        assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (read_file(p / "checkpoints/last.pt")["optimizer"]["state"] for p in (trained, folder))
    assert all(torch.equal(a[i][k], b[i][k]) for i in a for k in a[i])
    assert results(folder)["rows"] == results(trained)["rows"]
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in MetricsFile(p / "metrics.jsonl").read()]
                for p in (trained, folder)]
    assert timeless[0] == timeless[1]


def test_a_single_budget_has_a_dense_row_that_it_did_not_train(tmp_path):
    outcome = train(tmp_path / "single", "budgets.targets=[0.5]")
    assert [r["name"] for r in results(tmp_path / "single")["rows"]] == ["b050", "b100"]
    assert "was not trained" in outcome.out


def test_accumulation_alternates_budgets_within_a_step(tmp_path):
    train(tmp_path / "acc", LIST, "recipe.accumulation=2", "recipe.batch_size=8", "recipe.epochs=1")
    row = MetricsFile(tmp_path / "acc/metrics.jsonl").read()[0]
    assert row["step"] == 12 and set(row["fraction"]) == {"b030", "b070", "b100"}


def test_a_teacher_from_a_checkpoint_and_its_own_dense_path(tmp_path, trained):
    dense = bdsa.create_model("cifar_resnet14", [1.0], num_classes=10)
    torch.save({"state_dict": dense.state_dict()}, tmp_path / "dense.pt")
    train(tmp_path / "taught", LIST, "recipe.epochs=1", f"teacher={tmp_path}/dense.pt",
          "teacher.name=cifar_resnet14")
    train(tmp_path / "self", "budgets.targets=[0.5]", "recipe.epochs=1", "teacher=self")
    for name in ("taught", "self"):
        assert MetricsFile(tmp_path / name / "metrics.jsonl").read()[0]["loss"]["kd"] > 0
    assert "kd" not in MetricsFile(trained / "metrics.jsonl").read()[0]["loss"]


def test_awareness_weighs_the_budget_that_lags(tmp_path):
    (tmp_path / "targets.csv").write_text("model,0.3,0.7,1\nresnet8,99,0.5,1\n")
    train(tmp_path / "aware", LIST, "awareness=l2", f"awareness.targets={tmp_path}/targets.csv")
    first, second = [r["weight"] for r in MetricsFile(tmp_path / "aware/metrics.jsonl").read()
                     if r["kind"] == "train"][:2]
    assert set(first.values()) == {1.0}
    assert second["b030"] > 2.5 and sum(second.values()) == pytest.approx(3.0)


def test_dense_weights_start_every_budget_and_can_be_evaluated(tmp_path):
    dense = bdsa.create_model("cifar_resnet8", [1.0], num_classes=10)
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    outcome = run(evaluate_main, ["model=cifar_resnet8", f"model.weights={tmp_path}/dense.pt", "data=cluttered_digits",
                                  "data.image_size=32", "data.train_images=10", "data.val_images=10",
                                  "data.test_images=30", f"out={tmp_path}/dense"])
    assert outcome.code == 0, outcome.err
    assert [r["name"] for r in results(tmp_path / "dense")["rows"]] == ["b100"]
    network = bdsa.create_model("cifar_resnet8", [0.5], num_classes=10, weights=tmp_path / "dense.pt")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(x), dense.eval()(x))


def test_a_multirun_trains_every_combination_in_folders_of_its_own(tmp_path):
    outcome = run(train_main, ["-m", *TINY, f"out={tmp_path}", "recipe.epochs=1", "budgets.targets=[0.5],[0.3,1.0]"])
    assert outcome.code == 0, outcome.err
    folders = [p.parent for p in tmp_path.glob("*/results.json")]
    assert sorted(len(results(f)["trained_budgets"]) for f in folders) == [1, 2]


def test_every_job_of_a_multirun_has_a_wandb_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = [a for a in TINY if a != "tracker=none"]
    outcome = run(train_main, ["-m", *arguments, f"out={tmp_path}", "recipe.epochs=1", "trainer.seed=0,1"])
    assert outcome.code == 0, outcome.err
    runs = sorted(tmp_path.glob("*/wandb/offline-run-*"))
    assert len(runs) == 2 and len({r.parents[1] for r in runs}) == 2
    assert all(f"tracker    {r}" in outcome.out for r in runs)


def test_checkpoints_hold_nothing_but_tensors_and_plain_values(trained):
    for name in ("best.pt", "last.pt"):  # torch refuses whatever else there is
        assert "state_dict" in torch.load(trained / "checkpoints" / name, weights_only=True)
    assert read_checkpoint(trained / "checkpoints/best.pt")["model"]["budgets"] == [0.3, 0.7, 1.0]


def test_a_run_from_before_a_setting_existed_is_found_again(trained, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(trained, folder)
    text = (folder / "config.yaml").read_text()
    older = "".join(line for line in text.splitlines(True) if "control_gain" not in line and "ema_decay" not in line)
    assert older != text
    (folder / "config.yaml").write_text(older)
    assert "this run is finished" in train(folder, LIST).out
    assert run(train_main, [*TINY, LIST, f"out={tmp_path}", "name=old", "budgets.control_gain=1"]).code == 1


def test_a_setting_left_alone_is_no_part_of_the_name():
    config = {**asdict(TrainConfig()), "name": None}
    before = run_name(_root_=OmegaConf.create(config))
    del config["budgets"]["control_gain"]
    assert run_name(_root_=OmegaConf.create(config)) == before
    config["recipe"]["lr"] = 0.5
    assert run_name(_root_=OmegaConf.create(config)) != before
