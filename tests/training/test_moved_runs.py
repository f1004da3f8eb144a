"""Runs that were copied, whole or in part, and go on elsewhere."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import TINY, run
from small_runs import results, stop_in_the_second_epoch, train

from bdsa.commands.entry_points import train as train_main
from bdsa.models.checkpoints import read_checkpoint
from bdsa.models.factory import create_dense_model
from bdsa.runs.environment import began, launch
from bdsa.training.fit import Fit

pytestmark = pytest.mark.slow


def test_a_run_goes_on_in_another_precision_on_another_machine_and_its_log_says_so(tmp_path, monkeypatch):
    folder, short = tmp_path / "moved", ["recipe.epochs=2", "trainer.pictures=0", "budgets.targets=[0.5]"]
    stop_in_the_second_epoch(folder, *short, "trainer.amp=bfloat16")
    monkeypatch.setattr("bdsa.training.device.processor", lambda: "Another Processor")
    train(folder, *short)
    said = (folder / "train.log").read_text()
    before, after = said.split("resuming after epoch 1 of 2\n")
    assert ", bfloat16\n" in before and "Another Processor" not in before
    assert after.startswith("note: it goes on with trainer.amp=none, until here bfloat16\non Another Processor, ")
    assert ", float32\n" in after and len(results(folder)["rows"]) == 2
    again = run(train_main, [*TINY, f"out={tmp_path}", "name=moved", *short, "trainer.amp=bfloat16"])
    assert again.code == 1 and "trainer.amp: none -> bfloat16" in again.err


def test_a_run_copied_without_its_best_network_goes_on_if_an_epoch_is_left(tmp_path):
    folder, short = tmp_path / "copied", ["recipe.epochs=2", "trainer.pictures=0", "budgets.targets=[0.5]"]
    stop_in_the_second_epoch(folder, *short)
    best = folder / "checkpoints/best.pt"
    best.unlink()
    outcome = train(folder, *short)
    assert "best.pt, the network of the best epoch so far, is not that which last.pt names" in outcome.out
    assert best.exists() and results(folder)["epoch"] == 2  # though the first may have been better

    best.unlink(), (folder / "results.json").unlink()
    outcome = run(train_main, [*TINY, f"out={tmp_path}", "name=copied", *short])
    assert outcome.code == 1 and "best.pt, the network that is the run's result" in outcome.err
    assert outcome.err.strip().count("\n") == 0 and not (folder / "results.json").exists()


def test_a_run_copied_with_an_earlier_best_network_holds_it_against_its_own_rows(tmp_path, monkeypatch):
    """As a copy leaves it that was made between the writing of best.pt and of last.pt."""
    short, kept, epochs = ["trainer.pictures=0", "budgets.targets=[0.5]"], {}, iter((1, 2, 3))
    keep = Fit.keep

    def rising(self, measured):
        for row in measured:
            row.update(top1=10.0 * next(epochs), conditional_fraction=row["budget"])
        keep(self, measured)
        kept[self.done] = self.run.best.read_bytes()
        if self.done == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "copied"
    monkeypatch.setattr(Fit, "keep", rising)
    assert run(train_main, [*TINY, f"out={tmp_path}", "name=copied", *short]).code == 130
    (folder / "checkpoints/best.pt").write_bytes(kept[1])

    def falling(self, measured):
        for row in measured:
            row.update(top1=5.0, conditional_fraction=row["budget"])
        keep(self, measured)

    monkeypatch.setattr(Fit, "keep", falling)
    outcome = train(folder, *short)
    assert "is not that which last.pt names: that of epoch 1 takes its place" in outcome.out
    assert results(folder)["epoch"] == 1
    assert [row["top1"] for row in read_checkpoint(folder / "checkpoints/last.pt")["best"]["raw"]] == [10.0]


def test_a_run_goes_on_without_the_file_that_it_began_from_and_as_it_would_have(tmp_path):
    weights, short = tmp_path / "dense.pt", ["recipe.epochs=2", "budgets.targets=[0.5]"]
    torch.save(create_dense_model("cifar_resnet8", num_classes=10).state_dict(), weights)
    begun = [*short, f"model.weights={weights}"]
    train(tmp_path / "whole", *begun)
    stop_in_the_second_epoch(tmp_path / "stopped", *begun)
    weights.unlink()
    train(tmp_path / "stopped", *begun)
    assert results(tmp_path / "stopped")["rows"] == results(tmp_path / "whole")["rows"]


def test_a_job_that_is_started_again_goes_on_with_what_it_began_anew(tmp_path, monkeypatch):
    """As Slurm does at a time limit: it gives the same command again, trainer.fresh=true included."""
    folder, anew = tmp_path / "anew", ["recipe.epochs=2", "budgets.targets=[0.5]", "trainer.fresh=true"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    stop_in_the_second_epoch(folder, *anew)
    said = (folder / "train.log").read_text()
    assert "the same command, without trainer.fresh=true, goes on from the last finished epoch" in said
    command = json.loads((folder / "environment.json").read_text())["command"]
    assert "recipe.epochs=2" in command and "fresh" not in command
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert "resuming after epoch 1 of 2" in train(folder, *anew).out
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # of which the run is not
    assert "resuming" not in train(folder, *anew).out


@pytest.mark.parametrize(("launcher", "again", "restart"), [
    ({"SLURM_JOB_ID": "7"}, {"SLURM_RESTART_COUNT": "1"}, True), ({"SLURM_JOB_ID": "7"}, {}, False),
    ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"}, False),
    ({"SLURM_JOB_ID": "7"}, {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}, True),
    ({"TORCHELASTIC_RUN_ID": "none"}, {}, True),  # whatever the count: it is that of the node whose process failed
    ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RUN_ID": "other"}, False), ({}, {}, False)])
def test_who_goes_on_with_what_it_began(monkeypatch, launcher, again, restart):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    before = json.loads(json.dumps({"launch": launch()}))
    for name, value in again.items():
        monkeypatch.setenv(name, value)
    assert began(before) is restart and not began(None) and not began({"launch": "of another version"})
