"""A search, and the command that makes a job alone, whoever chose its values."""
from __future__ import annotations

import importlib.util
import json
import shlex

import pytest
from command_line import run
from omegaconf import OmegaConf
from sweep_jobs import QUICK, fake, stated, sweep

import bdsa.training.trainer
from bdsa.commands.entry_points import train as train_main


@pytest.mark.slow
def test_a_search_finds_the_best_and_goes_on_where_it_was(tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install 'bdsa[optuna]'")
    monkeypatch.setattr(bdsa.training.trainer, "train", fake)
    command = [*QUICK, f"out={tmp_path}", "hydra/sweeper=search", "recipe.lr=interval(0.001,0.005)",
               "budgets.targets=[0.3]", "maximize=b030"]
    outcome = run(train_main, [*command, "hydra.sweeper.n_trials=2"])
    assert outcome.code == 0 and stated(outcome) == ["done"] * 2, outcome.err
    outcome = run(train_main, [*command, "hydra.sweeper.n_trials=3"])
    assert stated(outcome) == ["skipped", "skipped", "done"]
    best = OmegaConf.load(tmp_path / "optimization_results.yaml").best_value
    made = [json.loads(p.read_text())["rows"][0]["top1"] for p in tmp_path.glob("*/results.json")]
    assert best == max(made) and f"b030 top-1 {best:.2f} %" in outcome.out


def test_a_search_without_the_extra_says_what_is_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "optuna" in name else real(name))
    for asked in ("hydra/sweeper=search", "sweep=search"):
        outcome = run(train_main, [asked])
        assert outcome.code == 1 and outcome.err == f"error: {asked} needs an extra: pip install 'bdsa[optuna]'\n"


@pytest.mark.slow
@pytest.mark.parametrize("asked", [["trainer.seed=3,4"], ["sweep=search", "hydra.sweeper.n_trials=2"]])
def test_a_jobs_command_makes_it_alone(tmp_path, asked):
    if "sweep=search" in asked:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install 'bdsa[optuna]'")
    assert sweep(tmp_path, "recipe.epochs=1", *asked).code == 0
    folders = [path.parent for path in tmp_path.glob("*/environment.json")]
    assert len(folders) == 2
    for folder in folders:
        name, *words = shlex.split(json.loads((folder / "environment.json").read_text())["command"])
        out = run(train_main, words).out
        assert name == "bdsa-train" and "this run is finished" in out and str(folder) in out
