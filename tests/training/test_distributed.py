"""Two processes do what one does: gradients, weights, evaluation, resume; one of them speaks."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import run
from two_ranks import CASES, RUN, train_steps

from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.runs.metrics import MetricsFile

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0", "--local-addr", "localhost"]


def shell(*command: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    done = shell(*TORCHRUN, ROOT / "tests/support/two_ranks.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def both(home) -> list:
    """(steps by case, outcomes by name) of either rank."""
    return [torch.load(home / f"rank{r}.pt", weights_only=False) for r in range(2)]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-6) -> bool:
    return float((one - two).double().norm()) <= tolerance * max(float(one.double().norm()), 1e-8)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.get("sync", True)])
def test_two_ranks_take_the_steps_of_one(both, name):
    alone, ranks = train_steps(**CASES[name]), [steps[name] for steps, _ in both]
    for two in ranks:
        assert {k for k, g in two.gradients.items() if g is None} == {
            k for k, g in alone.gradients.items() if g is None}
        wrong = [k for k, g in alone.gradients.items() if g is not None and not close(g, two.gradients[k])]
        assert not wrong, wrong[:5]
        wrong = [k for k, v in alone.state.items() if not close(v, two.state[k])]
        assert not wrong, wrong[:5]
    for mine, one, two in zip(alone.losses, *(r.losses for r in ranks), strict=True):
        for term in mine:
            assert (one[term] + two[term]) / 2 == pytest.approx(mine[term], rel=1e-5, abs=1e-9)


def test_with_own_statistics_the_ranks_still_agree(both):
    one, two = (steps["own statistics"].state for steps, _ in both)
    whole = both[0][0]["batch norm"].state
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not close(one["raw.bn1.running_var"], whole["raw.bn1.running_var"], 1e-4)


def test_results_are_those_of_an_evaluation_by_one_process(home, tmp_path):
    outcome = run(evaluate_main, [f"checkpoint={home / 'whole/checkpoints/best.pt'}", f"out={tmp_path}"])
    assert outcome.code == 0, outcome.err
    alone = results(tmp_path)["rows"]
    for folder in (home / "whole", home / "evaluated"):
        for mine, other in zip(alone, results(folder)["rows"], strict=True):
            assert mine["images"] == other["images"] == 50
            assert {k: v for k, v in mine.items() if k != "name"} == pytest.approx(
                {k: v for k, v in other.items() if k != "name"}, rel=1e-9)


def test_a_resumed_run_goes_on_with_any_number_of_processes(home):
    whole, resumed = (torch.load(home / n / "checkpoints/last.pt")["state_dict"] for n in ("whole", "stopped"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole) and not any(k.startswith("module.") for k in whole)
    outcome = run(train_main, [*RUN, f"out={home}", "name=stopped_for_one"])
    assert outcome.code == 0 and "resuming after epoch 1 of 2" in outcome.out, outcome.err
    rows = [MetricsFile(home / n / "metrics.jsonl").read() for n in ("whole", "stopped_for_one")]
    losses = [[r["loss"]["total"] for r in run_rows if r["kind"] == "train"] for run_rows in rows]
    assert len(losses[0]) == 2 and losses[0][0] == losses[1][0]
    assert losses[1][1] == pytest.approx(losses[0][1], rel=0.02)  # a mask may flip by rounding


def test_one_rank_speaks_and_errors_reach_both(both):
    (_, one), (_, two) = both
    assert all(o.out == o.err == "" for o in two.values())
    assert [o.code for o in one.values()] == [o.code for o in two.values()] == [0, 0, 0, 1, 1, 1, 0, 0]
    assert "in 2 processes" in one["whole"].out and "resuming after epoch 1 of 2" in one["resumed"].out
    assert one["again"].out.count("this run is finished") == 1
    assert "recipe.lr: 0.01 -> 0.5" in one["another"].err and len(one["another"].err.splitlines()) == 1
    assert "recipe.batch_size=15" in one["indivisible"].err and "multiple of 2" in one["indivisible"].err
    assert "model.args.drop_rate=0.3" in one["dropout"].err and len(one["dropout"].err.splitlines()) == 1


def test_a_sweep_trains_every_job_in_its_folder(home):
    assert len(list((home / "sweep").glob("*/results.json"))) == 2


def test_torchrun_ends_with_the_error_of_bad_input_said_once():
    done = shell(*TORCHRUN, "-m", "bdsa.commands", "train", "recipe.lr=fast")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: recipe.lr: Value 'fast' of type 'str' could not be converted to Float"]


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra: pip install 'bdsa[slurm]'")
def test_submitted_tasks_are_the_processes_of_one_run(tmp_path):
    done = shell(sys.executable, "-m", "bdsa.commands", "train", "hydra/launcher=submitit_local",
                 "hydra.launcher.tasks_per_node=2",
                 "hydra.launcher.timeout_min=5", *RUN, "recipe.epochs=1", f"out={tmp_path}", "name=submitted")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "submitted")["rows"][0]["images"] == 50
    assert "in 2 processes" in (tmp_path / "submitted/train.log").read_text()


def test_a_launcher_that_cannot_launch_is_explained(monkeypatch):
    monkeypatch.setenv("PATH", "")
    outcome = run(train_main, ["hydra/launcher=slurm"])
    assert outcome.code == 1 and outcome.err.startswith("error: hydra/launcher=slurm needs")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = run(train_main, ["hydra/launcher=slurm"])
    assert outcome.code == 1 and "start it without torchrun" in outcome.err
