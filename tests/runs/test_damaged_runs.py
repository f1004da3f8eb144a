"""A stopped run whose small files were damaged: it goes on where it can, and says which file where it cannot."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import TINY, run

from bdsa.commands.entry_points import train
from bdsa.runs.trackers.base import NoTracker

pytestmark = pytest.mark.slow
RUN = [*TINY, "recipe.epochs=2", "trainer.pictures=0", "budgets.targets=[0.5]", "name=mine"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after the first of its two epochs."""
    folder = tmp_path_factory.mktemp("stopped")
    patch = pytest.MonkeyPatch()

    def stop(self, rows):
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    patch.setattr(NoTracker, "log_eval", stop)
    assert run(train, [*RUN, f"out={folder}"]).code == 130
    patch.undo()
    return folder


@pytest.fixture
def folder(stopped, tmp_path):
    shutil.copytree(stopped / "mine", tmp_path / "mine")
    return tmp_path / "mine"


def go_on(folder: Path):
    return run(train, [*RUN, f"out={folder.parent}"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_id": 7}', "\x00\xff"])
def test_a_damaged_environment_stops_no_resume(folder, content):
    (folder / "environment.json").write_text(content, encoding="latin-1")
    outcome = go_on(folder)
    assert outcome.code == 0 and "resuming after epoch 1" in outcome.out, outcome.err
    assert outcome.out.count("environment.json") == 1 and len(json.loads(
        (folder / "environment.json").read_text())["run_id"]) == 12


def test_metrics_cut_off_in_mid_line_are_written_on(folder):
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "tra')
    outcome = go_on(folder)
    assert outcome.code == 0, outcome.err
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 1, 2, 2]


@pytest.mark.parametrize("name, content, said", [
    ("metrics.jsonl", '{"kind": "train"\n{}\n', "metrics.jsonl, line 1"),
    ("metrics.jsonl", '{"kind": "eval", "epoch": 1, "top1": "high"}\n', "top1='high'"),
    ("metrics.jsonl", '{"kind": "eval", "epoch": "1"}\n', "epoch='1'"),
    ("config.yaml", "{", "config.yaml"), ("config.yaml", "[]", "config.yaml"),
    ("results.json", '{"rows": [', "results.json"), ("results.json", "[]", "results.json"),
    ("results.json", '{"model": "x"}', "results.json"),
])
def test_what_cannot_be_gone_on_from_is_named_with_what_to_do(folder, name, content, said):
    (folder / name).write_text(content)
    outcome = go_on(folder)
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert outcome.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), outcome.err
    assert said in lines[0] and any(word in lines[0] for word in ("remove the line", "delete it", "name=..."))
    assert (folder / "checkpoints/last.pt").exists()


def test_damaged_results_of_one_job_fail_that_job_alone(folder):
    out = folder.parent
    words = ["-m", *(a for a in RUN if a != "name=mine"), "recipe.epochs=1", f"out={out / 'sweep'}", "trainer.seed=0,1"]
    assert run(train, words).code == 0
    one = sorted((out / "sweep").glob("*/results.json"))[0]
    one.write_text("{")
    outcome = run(train, words)
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert "1 skipped, 1 failed" in outcome.out or "1 failed, 1 skipped" in outcome.out
    assert f"{one} is broken or cut off" in outcome.out and "delete it" in outcome.out
    one.unlink()
    assert run(train, words).code == 0
