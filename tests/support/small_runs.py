"""Trainings of seconds, whole or stopped, and what they measured."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import TINY, run

from bdsa.commands.entry_points import train as train_main
from bdsa.runs.tracker import NoTracker


def train(folder: Path, *arguments: str):
    outcome = run(train_main, [*TINY, f"out={folder.parent}", f"name={folder.name}", *arguments])
    assert outcome.code == 0, outcome.err
    return outcome


def stop_in_the_second_epoch(folder: Path, *arguments: str) -> None:
    """Begin a training and stop it before its second epoch is kept."""
    def stop(self, rows):
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoTracker, "log_eval", stop)
        assert run(train_main, [*TINY, f"out={folder.parent}", f"name={folder.name}", *arguments]).code == 130


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())
