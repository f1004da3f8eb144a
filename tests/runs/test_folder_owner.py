"""A run's folder has one writer, and only what a run wrote is replaced or removed."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TINY, run
from run_folders import write_run

from bdsa.commands.entry_points import train
from bdsa.errors import UserError
from bdsa.runs import lock
from bdsa.runs.lock import FolderLock
from bdsa.runs.standing import check_can_begin_anew, check_is_free, own_files

RUN = [*TINY, "recipe.epochs=1", "trainer.pictures=0", "name=mine"]
HOLDER = """
import sys, time
from pathlib import Path
from bdsa.runs.lock import FolderLock
held = FolderLock(Path(sys.argv[1]))
held.take()
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to runs/mine."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "runs/mine")], stdout=subprocess.PIPE,
                               text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_start_is_refused_and_told_who_writes(tmp_path, holder):
    before = content(tmp_path)
    for arguments in (RUN, ["-m", *RUN], [*RUN, "trainer.fresh=true"]):
        outcome = run(train, [*arguments, f"out={tmp_path / 'runs'}"])
        assert outcome.code == 1, outcome.out
        assert f"is being written by process {holder.pid} on {os.uname().nodename}, since 20" in outcome.err
        assert "Traceback" not in outcome.err and content(tmp_path) == before


@pytest.mark.slow
def test_the_lock_of_a_killed_process_blocks_nobody_and_a_finished_run_leaves_none(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "runs/mine/run.lock").exists()
    outcome = run(train, [*RUN, f"out={tmp_path / 'runs'}"])
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "runs/mine/run.lock").exists()


@pytest.mark.slow
def test_a_finished_run_is_shown_whoever_holds_its_folder(tmp_path):
    assert run(train, [*RUN, f"out={tmp_path / 'runs'}"]).code == 0
    held = FolderLock(tmp_path / "runs/mine")
    held.take()
    outcome = run(train, [*RUN, f"out={tmp_path / 'runs'}"])
    held.release()
    assert outcome.code == 0 and "this run is finished" in outcome.out


def test_a_forked_worker_that_outlives_its_run_holds_nothing(tmp_path):
    held = FolderLock(tmp_path)
    held.take()
    reading, writing = os.pipe()
    worker = os.fork()  # what runs after a fork lets go of the folder, before this goes on
    if worker == 0:
        os.write(writing, b"!")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reading, 1)
        os.close(held._descriptor)  # as the end of this process would
        lock._held.discard(held._descriptor)
        FolderLock(tmp_path).take()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_without_locks_the_file_systems_word_is_the_process_number(tmp_path, monkeypatch, holder):
    monkeypatch.setattr(lock, "fcntl", None)
    folder = tmp_path / "runs/mine"
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        FolderLock(folder).take()
    holder.kill()
    holder.wait()
    FolderLock(folder).take()
    assert json.loads((folder / "run.lock").read_text())["pid"] == os.getpid()
    (folder / "run.lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "yesterday"}))
    with pytest.raises(UserError, match="process 1 on elsewhere, since yesterday"):
        FolderLock(folder).take()


def test_whoever_is_killed_while_a_run_is_removed_or_begun_can_begin_anew(tmp_path):
    folder = write_run(tmp_path / "mine", masks=True)
    (folder / "checkpoints").mkdir()
    for name in ("last.pt", "best.pt"):
        (folder / "checkpoints" / name).touch()
    removed = []
    for path in own_files(folder):
        if path.exists():
            path.unlink()
            removed.append(path.name)
            check_can_begin_anew(folder)
    assert removed[:2] == ["results.json", "last.pt"], "what would be shown as finished, or gone on from"
    (folder / "config.yaml.tmp").touch()
    check_is_free(tmp_path / "new")
    shutil.rmtree(folder)
    (folder / "config.yaml.tmp").parent.mkdir()
    (folder / "config.yaml.tmp").touch()
    check_is_free(folder)


@pytest.mark.parametrize("files", [["checkpoints/best.pt"], ["thesis.tex"], ["results.json", "metrics.jsonl"]])
@pytest.mark.parametrize("fresh", ["true", "false"])
def test_no_run_starts_in_a_folder_that_is_none(tmp_path, files, fresh):
    folder = tmp_path / "runs/mine"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("somebody else's")
    before = content(tmp_path)
    for flags in ([], ["-m"]):
        outcome = run(train, [*flags, *RUN, f"out={tmp_path / 'runs'}", f"trainer.fresh={fresh}"])
        assert outcome.code == 1 and "no run made it: choose another name=" in outcome.err, outcome.err
        assert content(tmp_path) == before


def test_another_programs_settings_are_not_a_run(tmp_path):
    folder = tmp_path / "runs/mine"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("lr: 0.1\n")
    (folder / "checkpoints/best.pt").write_text("somebody else's")
    before = content(tmp_path)
    for fresh, said in (("false", "other settings"), ("true", "was not made by bdsa-train")):
        outcome = run(train, [*RUN, f"out={tmp_path / 'runs'}", f"trainer.fresh={fresh}"])
        assert outcome.code == 1 and said in outcome.err and content(tmp_path) == before


@pytest.mark.slow
def test_starting_anew_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    folder = tmp_path / "runs/mine"
    assert run(train, [*RUN, f"out={tmp_path / 'runs'}"]).code == 0
    for name in ("notes.txt", "checkpoints/kept.pt", "pictures/poster.png", "wandb/mine.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    first = content(folder)
    assert run(train, [*RUN, f"out={tmp_path / 'runs'}", "trainer.fresh=true", "recipe.lr=0.01"]).code == 0
    second = content(folder)
    assert {*first} == {*second} and first["metrics.jsonl"] != second["metrics.jsonl"]
    assert {name for name in first if second[name] == b"mine"} == {
        "notes.txt", "checkpoints/kept.pt", "pictures/poster.png", "wandb/mine.txt"}


@pytest.mark.slow
def test_starting_anew_follows_no_link_and_checks_before_it_removes(tmp_path):
    folder, elsewhere = tmp_path / "runs/mine", tmp_path / "elsewhere"
    assert run(train, [*RUN, f"out={tmp_path / 'runs'}"]).code == 0
    (folder / "checkpoints").rename(elsewhere)
    (folder / "checkpoints").symlink_to(elsewhere)
    before = content(tmp_path)
    outcome = run(train, [*RUN, f"out={tmp_path / 'runs'}", "trainer.fresh=true"])
    assert outcome.code == 1 and "checkpoints is a link" in outcome.err and content(tmp_path) == before
