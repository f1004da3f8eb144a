"""Trackers beside W&B, several at once, and none that ends a training; read back by the libraries' own readers."""
from __future__ import annotations

import csv
import errno
import importlib.util
import logging
import shutil
from pathlib import Path

import pytest
from command_line import TINY, run
from matplotlib.image import imsave
from numpy import zeros
from test_tracker import ROWS, alone, tracker  # noqa: F401  (a fixture that every test here uses)

from bdsa.commands.entry_points import train
from bdsa.errors import UserError
from bdsa.runs.metrics import MetricsFile, flat
from bdsa.runs.tracker import NoTracker
from bdsa.runs.trackers.csv_files import CsvTracker
from bdsa.runs.trackers.guarded import GuardedTrackers

RUN = [*(a for a in TINY if a != "tracker=none"), "recipe.epochs=2", "trainer.pictures=0", "budgets.targets=[0.5]",
       "name=mine"]


def log_two_epochs(run, picture: Path) -> None:
    for epoch in (1, 2):
        run.log_train({"kind": "train", "epoch": epoch, "lr": 0.1, "loss": {"task": 3.0 - epoch, "kd": float("nan")}})
        if run.wants_picture(epoch):
            run.log_training_picture(picture)
        run.log_eval([{**row, "epoch": epoch, "top1": row["top1"] - epoch} for row in ROWS])
    run.log_pictures({"masks": picture})
    run.log_table(ROWS, {"parameters": 270000, "split": "test"})


@pytest.fixture
def picture(tmp_path):
    imsave(tmp_path / "masks.png", zeros((4, 6, 3)))
    return tmp_path / "masks.png"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files_have_a_row_an_epoch_and_the_summary(tmp_path, picture):
    with tracker(tmp_path / "job", mode="csv") as run:
        log_two_epochs(run, picture)
        where = Path(run.where)
    rows = table(where / "history.csv")
    assert [(r["epoch"], r["train/loss/task"], r["eval/top1/b030"]) for r in rows] == [
        ("1", "2.0", "60.5"), ("2", "1.0", "59.5")]
    assert "train/loss/kd" not in rows[0]
    summary = {r["metric"]: r["value"] for r in table(where / "summary.csv")}
    assert (summary["best/epoch"], summary["best/top1/b030"], summary["final/top1/b0335"]) == ("1", "60.5", "70.25")
    assert summary["final/parameters"] == "270000"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert not events.Tags()["images"] or all(name.startswith("pictures/") for name in events.Tags()["images"])
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_has_the_same_curves_and_a_resumed_run_each_epoch_once(tmp_path, picture):
    pytest.importorskip("tensorboard")
    with tracker(tmp_path / "job", mode="tensorboard") as run:
        log_two_epochs(run, picture)
        where = Path(run.where)
    found = scalars(where)
    assert found["train/loss/task"] == [(1, 2.0), (2, 1.0)] and found["eval/top1/b0335"] == [(1, 69.25), (2, 68.25)]
    assert found["best/epoch"] == [(1, 1.0)] and found["final/top1/b030"] == [(2, 61.5)]
    assert "train/loss/kd" not in found
    rows = [{"kind": "train", "epoch": 1, "loss": {"task": 5.0}}, *ROWS]
    with tracker(tmp_path / "job", mode="tensorboard") as run:
        run.catch_up(rows, {1: picture})  # epoch 2 was not kept
        run.log_train({"kind": "train", "epoch": 2, "loss": {"task": 4.0}})
        run.log_eval([{**row, "epoch": 2} for row in ROWS])
    assert scalars(where)["train/loss/task"] == [(1, 5.0), (2, 4.0)]


@pytest.mark.slow
def test_mlflow_has_the_same_curves_and_a_resumed_run_goes_on(tmp_path, picture, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    if importlib.util.find_spec("sqlalchemy") is None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with tracker(tmp_path / "job", mode="mlflow") as run:
        log_two_epochs(run, picture)
        where, _, identity = run.where.partition(", run ")
    with tracker(tmp_path / "job", mode="mlflow") as run:
        run.catch_up([{**row, "epoch": epoch} for epoch in (1, 2, 3) for row in ROWS], {})
        assert run.where.endswith(identity)
    client = mlflow.MlflowClient(tracking_uri=where)
    curve = client.get_metric_history(identity, "eval/top1/b030")
    assert [(m.step, m.value) for m in curve] == [(1, 60.5), (2, 59.5), (3, 61.5)]
    kept = client.get_run(identity)
    assert kept.info.status == "FINISHED" and kept.data.params["model/name"] == "resnet20"
    assert kept.data.metrics["final/top1/b0335"] == 70.25 and kept.data.tags["final/split"] == "test"


@pytest.mark.slow
def test_a_stopped_training_with_two_trackers_mirrors_its_metrics_file_in_both(tmp_path, monkeypatch):
    real = CsvTracker.log_eval

    def stop(self, rows):
        real(self, rows)
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    arguments = [*RUN, f"out={tmp_path}", "tracker=csv", "tracker.also=[wandb]"]
    with monkeypatch.context() as patch:
        patch.setattr(CsvTracker, "log_eval", stop)
        assert run(train, arguments).code == 130
    outcome = run(train, arguments)
    assert outcome.code == 0 and f"tracker    {tmp_path / 'mine/csv'}, {tmp_path / 'mine/wandb'}" in outcome.out
    rows = MetricsFile(tmp_path / "mine/metrics.jsonl").read()
    written = table(tmp_path / "mine/csv/history.csv")
    assert [float(r["train/loss/total"]) for r in written] == [r["loss"]["total"] for r in rows if r["kind"] == "train"]
    assert {f"train/{k}" for k in flat(rows[0]) if k not in ("kind", "epoch")} <= {*written[0]}


def test_a_broken_environment_of_wandb_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_SILENT", "")
    with caplog.at_level(logging.WARNING, "bdsa"), tracker(tmp_path / "job", mode="csv", also=["wandb"]) as run:
        run.log_eval(ROWS)
    assert len(caplog.records) == 1 and "wandb has failed" in caplog.text and "WANDB" not in run.where
    assert table(tmp_path / "job/csv/history.csv")


def test_a_missing_temporary_folder_at_the_last_table_is_one_warning(tmp_path, caplog, picture):
    from wandb.sdk.data_types._private import MEDIA_TMP

    with caplog.at_level(logging.WARNING, "bdsa"), tracker(tmp_path / "job") as run:
        log_two_epochs(run, picture)
        gone = Path(MEDIA_TMP.name)
        shutil.rmtree(gone)
        for _ in range(2):
            run.log_table(ROWS, {})
    gone.mkdir(exist_ok=True)
    assert len(caplog.records) == 1 and "wandb has failed" in caplog.text


def test_the_end_of_a_job_that_is_put_back_is_no_failure_of_a_tracker(monkeypatch):
    """submitit ends a process so at a time limit, wherever it is; Slurm starts it again."""
    def ends(*_):
        raise SystemExit(-1)

    monkeypatch.setattr(NoTracker, "log_eval", ends)
    trackers = GuardedTrackers({"one": NoTracker})
    trackers.log_eval([])
    trackers = GuardedTrackers({"one": NoTracker})
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(SystemExit):
        trackers.log_eval([])


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SystemExit(1), RuntimeError("x")])
@pytest.mark.parametrize("method", ["_log_epoch", "_summarise", "finish"])
def test_a_tracker_that_fails_ends_no_training(tmp_path, monkeypatch, error, method):
    def fail(self, *_):
        raise error

    monkeypatch.setattr(CsvTracker, method, fail)
    outcome = run(train, [*RUN, f"out={tmp_path}", "tracker=csv"])
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("the tracker csv has failed") == 1 and (tmp_path / "mine/results.json").exists()


def test_wrong_names_are_said_before_the_start(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'.*did you mean 'tensorboard'"):
        tracker(tmp_path, mode="csv", also=["tensorbord"])
    outcome = run(train, [*RUN, f"out={tmp_path}", "tracker.also=[csvv]"])
    assert outcome.code == 1 and "did you mean 'csv'" in outcome.err and not list(tmp_path.rglob("config.yaml"))
