"""The campaign: trainings that are killed and taken up, and command lines that are wrong, counted.

A short form runs with the other tests; `python -m pytest tests/project/test_campaign.py --campaign -s` is the whole of
it, whose figures are in docs/reliability.md.
"""
from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from command_line import TINY, run
from malformed import lines

import bdsa.training.trainer
from bdsa.commands.entry_points import COMMANDS

SUPPORT = Path(__file__).parents[1] / "support"
KINDS = ("plain", "averaged", "steered", "sandwich", "continuous", "wandb")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_ends_as_an_undisturbed_one(kind, tmp_path, request):
    whole = request.config.getoption("--campaign")
    if kind not in ("plain", "sandwich") and not whole:
        pytest.skip("the short form kills two kinds of run: --campaign kills all")
    done = subprocess.run(
        [sys.executable, SUPPORT / "killed_runs.py", kind, "25" if whole else "2", "0", tmp_path], text=True,
        capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SUPPORT), "WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr[-2000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    print(counted)
    assert counted["wrong"] == [] and counted["kills"] >= 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_where_one_of_two_processes_is_killed_the_other_does_not_hang(tmp_path):
    launched = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bdsa.commands",
         "train", *TINY, "trainer.threads=1", "recipe.epochs=5000", "trainer.pictures=0", f"out={tmp_path}",
         "name=two"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "two/checkpoints/last.pt").exists():
            assert time.monotonic() < deadline and launched.poll() is None, "no epoch was trained"
            time.sleep(0.2)
        ranks = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
        assert launched.wait(timeout=60) != 0
        assert not any(Path(f"/proc/{rank}/cmdline").exists() for rank in ranks)
    finally:
        launched.kill()


@pytest.mark.slow
def test_no_malformed_command_line_gives_a_traceback_hangs_or_is_accepted(tmp_path, monkeypatch, request):
    chosen = lines()[:400 if request.config.getoption("--campaign") else 30]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bdsa.training.trainer, "train", accepted)
    counted: collections.Counter[str] = collections.Counter()
    wrong = []
    before = signal.signal(signal.SIGALRM, too_long)
    try:
        for command, words in chosen:
            module, _, function = COMMANDS[command][1].partition(":")
            signal.alarm(60)
            try:
                outcome = run(getattr(import_module(module), function), words)
                kind = judged(outcome)
            except BaseException as error:
                kind = "hangs" if isinstance(error, TimeoutError) else f"raises {type(error).__name__}"
            finally:
                signal.alarm(0)
            counted[kind] += 1
            if kind != "refused":
                wrong.append((command, words[-1], kind))
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{len(chosen)} command lines: {dict(counted)}")
    assert wrong == []


def accepted(config, folder):
    """In place of a training: the line was not refused."""
    raise AssertionError("accepted")


def too_long(*_):
    """What the alarm calls."""
    raise TimeoutError


def judged(outcome) -> str:
    """What became of a command line: "refused", with an error on a line of its own, or what is wrong."""
    if outcome.code == 0:
        return "accepted"
    if "Traceback" in outcome.err + outcome.out or "error: accepted" in outcome.err:
        return "traceback or accepted"
    said = [line for line in outcome.err.splitlines() if line.strip()]
    return "refused" if said and all(line.startswith("error: ") for line in said[:1]) else "no error line"
