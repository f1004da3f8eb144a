"""What the file system refuses is one line that names the file and the cause; nothing half-written stays."""
from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, run

from bdsa.commands.compare import main as compare
from bdsa.commands.entry_points import benchmark, evaluate, export, pipeline, train, visualize
from bdsa.commands.report import main as report
from bdsa.commands.targets import main as targets
from bdsa.runs import files
from bdsa.runs.metrics import MetricsFile

RUN = [*TINY, "recipe.epochs=1", "budgets.targets=[0.5]"]
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from bdsa.commands.entry_points import train
train()
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = run(train, [*RUN, f"out={folder}", "name=done"])
    assert outcome.code == 0, outcome.err
    return folder / "done"


@pytest.mark.slow
@pytest.mark.parametrize("main, arguments, code", [
    *((train, [*RUN, "out=runs"], code) for code in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG)),
    (evaluate, ["checkpoint={run}/checkpoints/best.pt", "out=made"], errno.ENOSPC),
    (visualize, ["checkpoint={run}/checkpoints/best.pt", "out=made"], errno.EROFS),
    (export, ["checkpoint={run}/checkpoints/best.pt", "out=made.safetensors"], errno.EDQUOT),
    (targets, ["{run}", "out=made.csv"], errno.ENOSPC), (report, ["{run}", "out=made"], errno.ENOSPC),
    (compare, ["{run}", "{run}", "out=made.md"], errno.EROFS)],
    ids=["train", "read-only", "quota", "long", "evaluate", "visualize", "export", "targets", "report", "compare"])
def test_a_disk_that_takes_no_more_is_one_line(finished, tmp_path, monkeypatch, main, arguments, code):
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.os, "fsync", refuse)
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    outcome = run(main, [a.format(run=finished) for a in arguments])
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert outcome.code == 1 and len(lines) == 1 and "Traceback" not in outcome.err, outcome.err
    assert os.strerror(code) in lines[0] and ("made" in lines[0] or "runs/" in lines[0])
    assert not list(tmp_path.rglob("*.tmp"))
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("main, arguments", [
    (pipeline, ["-m", *RUN, "out=made"]), (benchmark, [*(a for a in RUN if "tracker" not in a), "what=latency",
                                                     "latency.rounds=1", "latency.peers=[eager]",
                                                     "trainer.threads=1", "out=made"])],
    ids=["pipeline", "benchmark"])
def test_the_long_commands_say_it_in_lines_too(tmp_path, monkeypatch, main, arguments):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.os, "fsync", refuse)
    outcome = run(main, arguments)
    assert outcome.code == 1 and "Traceback" not in outcome.err, outcome.err
    assert os.strerror(errno.ENOSPC) in outcome.err and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 3_000, 60_000])
def test_a_training_whose_files_may_not_grow_is_taken_up_when_they_may(tmp_path, limit, monkeypatch):
    """The limit of the operating system's on a file's size: settings, log and checkpoint are cut off by it in turn."""
    words = [*RUN, "trainer.latency=false", "out=runs", "name=mine"]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit), *words], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "runs/mine" in line and os.strerror(errno.EFBIG) in line
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.chdir(tmp_path)
    again = run(train, words)
    assert again.code == 0, again.err


def test_what_was_there_stays_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_text(path, "before")
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError) as caught:
        files.write_text(path, "after")
    assert caught.value.filename == str(path) and path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_rows_written_before_the_disk_was_full_are_kept(tmp_path, monkeypatch):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr("bdsa.runs.metrics.os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError) as caught:
            metrics.append({"epoch": 2})
    assert caught.value.filename == str(Path(metrics.path)) and metrics.read()[0] == {"epoch": 1}


@pytest.mark.slow
@pytest.mark.parametrize("main, words, work", [
    (evaluate, ["checkpoint={best}"], "bdsa.commands.evaluate.evaluate"),
    (visualize, ["checkpoint={best}"], "bdsa.commands.visualize.ask"),
    (benchmark, [*TINY], "bdsa.commands.benchmark.training.take_turns"),
    (benchmark, ["what=latency", "latency.checkpoint={best}", "latency.peers=[eager]"],
     "bdsa.commands.benchmark.latency.measured"),
])
def test_a_folder_that_cannot_be_written_to_is_said_before_the_work(finished, monkeypatch, main, words, work):
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("it has begun"))
    words = [w.format(best=finished / "checkpoints/best.pt") for w in words]
    outcome = run(main, [*words, "out=/proc/nothing/here"])
    assert outcome.code == 1 and outcome.err.count("\n") <= 1, outcome.err
    assert outcome.err.startswith("error: /proc/nothing/here cannot be written to"), outcome.err
