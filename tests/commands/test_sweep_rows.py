"""A sweep with rows: jobs that no grid has, in an order in which later ones find what earlier ones made."""
from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import Outcome, run
from small_data import write_folder

from bdsa.commands.entry_points import train as train_main
from bdsa.commands.report import main as report_main
from bdsa.commands.sweep.rows import chosen_rows, in_rows
from bdsa.errors import UserError
from bdsa.runs.metrics import MetricsFile
from bdsa.training.step import TrainStep

ROWS = {"dense": "budgets.targets=[1.0] trainer.seed=0", "single": "budgets.targets=[0.3],[0.5]",
        "all": "budgets.targets=[0.3,0.5]", "taught": "budgets.targets=[0.3,0.5] teacher=none,self"}
TINY = ["data.image_size=32", "data.held_out=6", "recipe.epochs=1", "recipe.warmup_epochs=0", "recipe.batch_size=4",
        "trainer.limit_train_batches=2", "trainer.pictures=0", "budgets.calibration_images=4", "data.workers=0",
        "tracker=none", "trainer.seed=0,1", "model=cifar_resnet8"]


def test_every_combination_has_all_rows_before_the_next_and_none_twice():
    made = [" ".join(words) for words in in_rows({"trainer.seed": "0,1", "recipe.lr": "0.1"}, ROWS, ["teacher=none"])]
    assert made == [  # "all" without a teacher and "taught" without one are the same job
        "recipe.lr=0.1 teacher=none budgets.targets=[1.0] trainer.seed=0",
        "trainer.seed=0 recipe.lr=0.1 teacher=none budgets.targets=[0.3]",
        "trainer.seed=0 recipe.lr=0.1 teacher=none budgets.targets=[0.5]",
        "trainer.seed=0 recipe.lr=0.1 teacher=none budgets.targets=[0.3,0.5]",
        "trainer.seed=0 recipe.lr=0.1 budgets.targets=[0.3,0.5] teacher=self",
        *[line.replace("seed=0", "seed=1") for line in made[1:5]]]


def test_values_on_the_command_line_take_the_place_of_the_grids_and_not_of_the_rows():
    made = in_rows({"trainer.seed": "0,1,2", "model": "a"}, ROWS, ["trainer.seed=7", "model.name=b", "teacher=self"])
    assert {w for words in made for w in words if w.startswith("trainer.seed")} == {"trainer.seed=0", "trainer.seed=7"}
    assert all("model.name=b" in words and "model=a" not in words for words in made)
    assert sum("teacher=none" in words for words in made) == 1


@pytest.mark.parametrize("arguments, parts", [
    (["hydra.sweeper.only=[multy]"], ["multy", "did you mean 'multi'"]),
    (["hydra.sweeper.only=[]"], ["hydra.sweeper.only is empty", "teacher, dense"]),
    (["budgets.targets=[0.9]"], ["budgets.targets=[0.9]", "every row", "hydra.sweeper.only"]),
    (["sweep=seeds", "hydra.sweeper.only=[dense]"], ["no rows"]),
])
def test_what_no_row_can_be_is_said_before_anything_runs(tmp_path, arguments, parts):
    outcome = table(tmp_path, *arguments)
    (line,) = outcome.err.splitlines()
    assert outcome.code == 1 and line.startswith("error: ") and all(part in line for part in parts), line
    assert not list(tmp_path.rglob("config.yaml"))


def test_rows_are_run_in_the_sweeps_order():
    assert [*chosen_rows(ROWS, ["all", "dense"])] == ["dense", "all"]
    with pytest.raises(UserError, match="no rows"):
        chosen_rows({}, ["dense"])


def table(folder: Path, *arguments: str) -> Outcome:
    """The CIFAR-10 table, in miniature and in a folder of its own."""
    named = [] if any(a.startswith("sweep=") for a in arguments) else ["sweep=cifar10_table"]
    return run(train_main, [*named, *TINY, f"data.root={folder}/images", f"out={folder}/runs", *arguments])


@pytest.mark.slow
def test_the_cifar10_table_is_made_by_one_command_and_laid_beside_the_published_numbers(tmp_path):
    write_folder(tmp_path / "images", {"train": dict.fromkeys("abc", 8), "test": dict.fromkeys("abc", 3)}, side=32)
    outcome = table(tmp_path, "hydra.sweeper.only=[teacher,dense,multi]", "trainer.seed=0")
    assert outcome.code == 0 and "3 done" in outcome.out, outcome.out + outcome.err
    first = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/results.json")}
    outcome = table(tmp_path, "hydra.sweeper.only=[teacher,dense,multi,norms]")
    assert outcome.code == 0 and "3 skipped, 4 done" in re.sub(r"\n", " ", outcome.out), outcome.out + outcome.err
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 7 and all(
        p.stat().st_mtime_ns == then for p, then in first.items())
    for path in tmp_path.glob("runs/folder-*/config.yaml"):  # from its seed's dense network, and all of one teacher
        config = yaml.safe_load(path.read_text())
        assert f"dense-cifar_resnet8-seed{config['trainer']['seed']}/checkpoints/best.pt" in config["model"]["weights"]
        assert "dense-cifar_resnet56-seed0/checkpoints/best.pt" in config["teacher"]["weights"]

    (tmp_path / "published.csv").write_text("model,0.3,0.5\nresnet8,70,75\n")
    outcome = run(report_main, [f"{tmp_path}/runs", f"out={tmp_path}/report", f"published={tmp_path}/published.csv"])
    assert outcome.code == 0, outcome.err
    with (tmp_path / "report/report.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["model"] == "cifar_resnet8"]
    assert {line["settings"] for line in lines if "one for" in line["networks"]} == {
        "model.norm_affine=separate", "model.norm_affine=shared"}
    assert all(line["runs"] == "2" and line["top1_deviation"] for line in lines)
    at_30 = [line for line in lines if line["budget"] == "0.3"]
    assert len(at_30) == 2 and {line["published_top1"] for line in at_30} == {"70.0"}
    assert all(float(line["difference"]) == pytest.approx(float(line["top1"]) - 70) for line in at_30)


@pytest.mark.slow
def test_a_table_that_was_stopped_goes_on_in_a_copy_of_its_folder(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    write_folder(here / "images", {"train": dict.fromkeys("abc", 8), "test": dict.fromkeys("abc", 3)}, side=32)
    command = ["sweep=cifar10_table", *TINY, "data.root=images", "trainer.seed=0", "recipe.epochs=2",
               "hydra.sweeper.only=[teacher,dense]"]
    started, start_epoch = [], TrainStep.start_epoch

    def stop(self, epoch):
        started.append(epoch)
        if len(started) == 4:  # in the second epoch of the second job
            raise KeyboardInterrupt
        start_epoch(self, epoch)

    monkeypatch.chdir(here)
    monkeypatch.setattr(TrainStep, "start_epoch", stop)
    assert run(train_main, command).code == 130 and started == [0, 1, 0, 1]
    monkeypatch.setattr(TrainStep, "start_epoch", start_epoch)
    shutil.copytree(here, there)
    monkeypatch.chdir(there)
    outcome = run(train_main, command)
    assert outcome.code == 0 and "1 skipped, 1 resumed" in outcome.out, outcome.out + outcome.err
    shutil.rmtree(here / "runs")
    monkeypatch.chdir(here)
    assert run(train_main, command).code == 0
    for folder in (here / "runs/cifar10_table").iterdir():
        copied = there / "runs/cifar10_table" / folder.name
        assert (folder / "results.json").read_bytes() == (copied / "results.json").read_bytes()
        rows = [[{k: v for k, v in row.items() if "second" not in k} for row in MetricsFile(f / "metrics.jsonl").read()]
                for f in (folder, copied)]
        assert rows[0] == rows[1] and len(rows[0]) > 2
