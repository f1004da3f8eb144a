"""A sweep survives: its failures are named and stop nothing, finished jobs are skipped, cut-off ones go on."""
from __future__ import annotations

import importlib.util
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import Outcome, run
from sweep_jobs import QUICK, fake, stated, sweep

import bdsa.commands.launch
import bdsa.config.options
import bdsa.training.trainer
from bdsa.commands.entry_points import train as train_main
from bdsa.commands.sweep.rows import combinations
from bdsa.errors import UserError
from bdsa.runs.metrics import MetricsFile

ROOT = Path(__file__).parents[2]


def rows(folder: Path) -> list[dict]:
    """What a run measured, without how long it took."""
    return [{k: v for k, v in row.items() if "second" not in k} for row in MetricsFile(folder / "metrics.jsonl").read()]


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(bdsa.training.trainer, "train", fake)


@pytest.mark.slow
def test_killed_twice_and_failing_once_it_ends_as_if_nothing_had_been(tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    arguments = ["trainer.seed=0,1,2,3", "budgets.targets=[0.5]"]
    assert sweep(whole, *arguments).code == 0
    folders = sorted(p.name for p in whole.iterdir())
    assert len(folders) == 4
    order = sorted(folders, key=lambda name: (whole / name / "results.json").stat().st_mtime_ns)
    (torn / order[2] / "checkpoints/last.pt.tmp").mkdir(parents=True)  # so that this job cannot save
    (torn / order[2] / "checkpoints/last.pt").mkdir()
    shutil.copy(whole / order[2] / "config.yaml", torn / order[2])  # a run's folder all the same

    for job in (0, 1):
        started = subprocess.Popen([sys.executable, "-m", "bdsa.commands", "train", "-m", *QUICK, f"out={torn}",
                                    *arguments],
                                   env={**os.environ, "PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1"},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(torn / order[job] / "checkpoints/last.pt", started)
        started.send_signal(signal.SIGKILL)
        started.wait()
        assert not (torn / order[job] / "results.json").exists()

    outcome = sweep(torn, *arguments)
    assert outcome.code == 1 and stated(outcome) == ["skipped", "resumed", "failed", "done"], outcome.out
    failed = torn / order[2]
    trace = (failed / "failure.txt").read_text()
    assert "Traceback" in trace and "bdsa-train" in trace and str(failed) in outcome.out
    assert "1 of 4 jobs failed" in outcome.out and trace.splitlines()[0] in outcome.out

    for obstacle in ("last.pt.tmp", "last.pt"):
        (failed / "checkpoints" / obstacle).rmdir()
    outcome = sweep(torn, *arguments)
    assert outcome.code == 0 and stated(outcome) == ["skipped", "skipped", "done", "skipped"], outcome.out
    assert not list(torn.rglob("failure.txt")) and f"bdsa-report {torn}/*/" in outcome.out
    for name in folders:
        assert (torn / name / "results.json").read_bytes() == (whole / name / "results.json").read_bytes()
        assert rows(torn / name) == rows(whole / name)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    latest = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < latest and time.sleep(0.002) is None


@pytest.mark.slow
def test_jobs_that_fail_stop_nothing_and_leave_why(tmp_path, monkeypatch):
    def fails(config, folder):
        if config.trainer.seed == 1:
            raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate a lot")
        if config.trainer.seed == 2:
            raise UserError("no such thing")
        if config.trainer.seed == 3:
            sys.exit("a library's idea of an error")
        fake(config, folder)

    monkeypatch.setattr(bdsa.training.trainer, "train", fails)
    outcome = sweep(tmp_path, "trainer.seed=0,1,2,3", "recipe.schedule=cosine,cosin")
    assert outcome.code == 1 and "7 of 8 jobs failed" in outcome.out
    assert stated(outcome) == ["done", *["failed"] * 7]
    reasons = sorted(p.read_text().splitlines()[0] for p in tmp_path.glob("*/failure.txt"))
    assert len(reasons) == 7 and reasons[0] == "OutOfMemoryError: CUDA out of memory" and "no such thing" in reasons
    assert sum("did you mean 'cosine'" in r for r in reasons) == 4 and "SystemExit: a library's" in " ".join(reasons)
    assert "Traceback" not in outcome.err and "in fails" in "".join(p.read_text() for p in tmp_path.glob("*/fail*"))


@pytest.mark.slow
def test_a_failure_of_a_single_run_is_kept_until_it_succeeds(tmp_path, monkeypatch):
    def breaks(config, folder):
        (folder / "config.yaml").write_text("")
        raise ZeroDivisionError("a bug")

    command = [*QUICK, f"out={tmp_path}", "name=a"]
    monkeypatch.setattr(bdsa.training.trainer, "train", breaks)
    outcome = run(train_main, command)
    assert outcome.code == 1 and "ZeroDivisionError" in outcome.err  # as without a sweep: the traceback is shown
    assert (tmp_path / "a/failure.txt").read_text().startswith("ZeroDivisionError: a bug\n")
    monkeypatch.setattr(bdsa.training.trainer, "train", fake)
    assert run(train_main, command).code == 0 and not (tmp_path / "a/failure.txt").exists()


@pytest.mark.slow
def test_nothing_leaks_from_job_to_job(tmp_path, monkeypatch):
    seen, log = {}, logging.getLogger("bdsa")
    before = torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()

    def dirty(config, folder):
        seen[config.trainer.seed] = dict(
            threads=torch.get_num_threads(), grad=torch.is_grad_enabled(), dtype=torch.get_default_dtype(),
            handlers=log.handlers[:], level=log.level, numbers=(random.random(), float(torch.rand(1))),
            variable=os.environ.get("LEAK"), folder=os.getcwd(), interrupt=signal.getsignal(signal.SIGINT),
            deterministic=torch.are_deterministic_algorithms_enabled())
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        log.addHandler(logging.FileHandler(tmp_path / "leak.log"))
        log.setLevel(logging.ERROR)
        os.environ["LEAK"] = "yes"
        os.chdir(tmp_path)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if config.trainer.seed == 0:
            raise RuntimeError("left in the middle")
        fake(config, folder)

    monkeypatch.setattr(bdsa.training.trainer, "train", dirty)
    here = os.getcwd()
    assert stated(sweep(tmp_path / "runs", "trainer.seed=0,1,2")) == ["failed", "done", "done"]
    assert seen[0] == seen[1] == seen[2] and seen[0]["grad"] and os.getcwd() == here
    assert torch.are_deterministic_algorithms_enabled() is before[0] and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.slow
def test_an_open_wandb_run_does_not_reach_the_next_job(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    finished = []
    monkeypatch.setattr(wandb, "finish", lambda exit_code: finished.append(exit_code) or setattr(wandb, "run", None))

    def opens(config, folder):
        wandb.run = object()
        raise RuntimeError("left open")

    monkeypatch.setattr(bdsa.training.trainer, "train", opens)
    monkeypatch.setattr(wandb, "run", None)
    sweep(tmp_path, "trainer.seed=0,1")
    assert finished == [1, 1] and wandb.run is None


@pytest.mark.slow
def test_ctrl_c_stops_the_sweep_and_shows_how_it_stands(tmp_path, monkeypatch):
    def stops(config, folder):
        if config.trainer.seed == 1:
            raise KeyboardInterrupt
        fake(config, folder)

    monkeypatch.setattr(bdsa.training.trainer, "train", stops)
    outcome = sweep(tmp_path, "trainer.seed=0,1,2")
    assert outcome.code == 130 and stated(outcome) == ["done", "not started", "not started"]
    assert "the same command again" in outcome.out and not list(tmp_path.rglob("failure.txt"))
    outcome = sweep(tmp_path, "trainer.seed=0,1,2", "trainer.fresh=true")  # which would discard what is finished
    assert "the same command, without trainer.fresh=true, skips the finished jobs" in outcome.out


@pytest.mark.parametrize("arguments, expected", [
    (["recipe.lr=0.1,0.1"], ["jobs 1 and 2", "one folder", "same settings"]),
    (["trainer.threads=1,2"], ["trainer.threads alone"]),
    (["trainer.seed=0,1", "name=a"], ["name=a", "leave it out"]),
    (["recipe.lr=interval(0,1)"], ["recipe.lr", "hydra/sweeper=search"]),
    (["sweep=seds"], ["seds", "did you mean 'seeds'"]),
    (["recipe.ler=0.1,0.2"], ["recipe.ler", "recipe.lr"]),
    (["hydra/launcher=jobli"], ["jobli", "did you mean 'joblib'"]),
])
def test_what_cannot_be_swept_is_said_before_anything_runs(tmp_path, faked, arguments, expected):
    outcome = run(train_main, ["-m", *(q for q in QUICK if "threads" not in q), f"out={tmp_path / 'runs'}", *arguments])
    assert outcome.code == 1 and not list(tmp_path.rglob("*.json"))
    (line,) = [line for line in outcome.err.splitlines() if line.strip()]
    assert line.startswith("error: ") and all(part in line for part in expected), line


@pytest.mark.slow
def test_a_folder_of_other_settings_is_left_alone(tmp_path, faked):
    assert sweep(tmp_path, "name=a", "trainer.seed=1").code == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    outcome = sweep(tmp_path, "name=a", "trainer.seed=2")
    assert outcome.code == 1 and "trainer.seed: 1 -> 2" in outcome.err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_that_may_not_be_read_fails_its_job_alone(tmp_path, faked, monkeypatch):
    seen = set()

    def refused(self) -> None:
        seen.add(self.path)
        if len(seen) == 2:  # the second job's turn
            raise PermissionError(13, "Permission denied", str(self.path))

    monkeypatch.setattr("bdsa.runs.lock.FolderLock.check", refused)
    outcome = sweep(tmp_path, "trainer.seed=0,1,2")
    assert outcome.code == 1 and "Permission denied" in outcome.err
    assert stated(outcome).count("done") == 2


@pytest.mark.slow
def test_a_preset_carries_its_sweep_and_the_command_line_replaces_its_values(tmp_path, faked, monkeypatch):
    (tmp_path / "mine.yaml").write_text("recipe: {lr: 0.01}\nhydra: {mode: MULTIRUN, sweeper: {params: {"
                                        "trainer.seed: '0,1', model: 'cifar_resnet8,resnet18'}}}")
    for module in (bdsa.commands.launch, bdsa.config.options):
        monkeypatch.setattr(module, "experiments", lambda: {"mine": tmp_path / "mine.yaml"})
    base = [q for q in QUICK if not q.startswith("model")]
    outcome = run(train_main, [*base, "experiment=mine", f"out={tmp_path / 'all'}"])
    assert outcome.code == 0 and stated(outcome) == ["done"] * 4
    outcome = run(train_main, [*base, "experiment=mine", "model=cifar_resnet8", "trainer.seed=5,6,7",
                               f"out={tmp_path / 'some'}"])
    assert outcome.code == 0 and len(list((tmp_path / "some").glob("*resnet8*/results.json"))) == 3


def test_another_spelling_replaces_a_presets_model():
    assert combinations({"model": "resnet18,resnet50"}, ["model.name=resnet34", "recipe.lr=1,2"]) == [
        ["model.name=resnet34", "recipe.lr=1"], ["model.name=resnet34", "recipe.lr=2"]]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launchers_jobs_fail_and_finish_likewise(tmp_path, launcher):
    package = {"joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "submitit"}[launcher]
    if importlib.util.find_spec(package) is None:
        pytest.skip("needs an extra")
    options = ["hydra.launcher.n_jobs=1"] if launcher == "joblib" else ["hydra.launcher.timeout_min=5"]
    done = subprocess.run(
        [sys.executable, "-m", "bdsa.commands", "train", f"hydra/launcher={launcher}", *options, *QUICK,
         "recipe.epochs=1",
         f"out={tmp_path}", "recipe.lr=0.001,1e30"], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 1, done.stderr
    assert stated(Outcome(1, done.stdout, "")) == ["done", "failed"]
    assert "must not be above" in done.stdout.split("1 of 2 jobs failed:")[1]
    assert len(list(tmp_path.glob("*/results.json"))) == len(list(tmp_path.glob("*/failure.txt"))) == 1
