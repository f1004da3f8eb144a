"""Runs of the real wandb, offline, read back from disk with wandb's own reader (`wandb leet inspect`)."""
from __future__ import annotations

import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imsave
from numpy import zeros

from bdsa.errors import UserError
from bdsa.runs.tracker import NoTracker, create_tracker
from bdsa.runs.trackers.wandb import WandbTracker

wandb = pytest.importorskip("wandb")

ROWS = [{"kind": "eval", "epoch": 1, "split": "val", "name": name, "budget": budget, "top1": top1,
         "conditional_fraction": budget + 0.01, "macs": 4e7 * budget, "images": 100}
        for name, budget, top1 in (("b030", 0.3, 61.5), ("b0335", 0.335, 70.25))]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No account, no network, and no session of wandb that remembers another test's environment."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb_data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb_cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()


def tracker(folder, run_id="run-one", mode="wandb", **changes):
    arguments = dict(config={"budgets": [0.3, 0.335], "model": {"name": "resnet20"}}, project="bdsa-tests",
                     name="a run", group="a sweep", job_type="train", tags=["cifar10"], tolerance=0.03,
                     pictures_every=2)
    return create_tracker(mode, folder=folder, run_id=run_id, **{**arguments, **changes})


def read(where):
    """Return (records, summary) of an offline run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    records, summary = (subprocess.run([*command, *more, str(where)], check=True, capture_output=True,
                                       text=True).stdout for more in ([], ["--summary"]))
    return [json.loads(line) for line in records.splitlines()], json.loads(summary)


@pytest.mark.slow
def test_an_offline_run_holds_curves_config_table_and_pictures(tmp_path, capfd):
    picture = tmp_path / "masks.png"
    imsave(picture, zeros((4, 4, 3)))
    with tracker(tmp_path / "job") as run:
        where = Path(run.where)
        assert [epoch for epoch in range(1, 6) if run.wants_picture(epoch)] == [2, 4]
        for epoch in (1, 2):
            run.log_train({"kind": "train", "epoch": epoch, "step": 10 * epoch, "lr": 0.1,
                           "loss": {"task": 3.0 - epoch, "budget": float("nan")}})
            if run.wants_picture(epoch):
                run.log_training_picture(picture)
            run.log_eval([{**row, "epoch": epoch, "weights": weights, "top1": top1} for row in ROWS
                          for weights, top1 in (("raw", row["top1"] - epoch), ("ema", 9.0 + epoch))])
        run.log_pictures({"masks": picture})
        run.log_table([{"weights": weights, **row, "top1": row["top1"] - less}
                       for weights, less in (("raw", 9), ("ema", 0)) for row in ROWS], {"parameters": 270000})
    assert capfd.readouterr() == ("", "")
    assert where.is_relative_to(tmp_path / "job" / "wandb") and where.is_dir()

    records, summary = read(where)
    assert summary["config"] == {"budgets": [0.3, 0.335], "model": {"name": "resnet20"}}
    assert (summary["run_id"], summary["name"], summary["project"]) == ("run-one", "a run", "bdsa-tests")
    assert (summary["tags"], summary["state"], summary["exit_code"]) == (["cifar10"], "finished", 0)
    start = next(record["run"] for record in records if record["type"] == "run")
    assert (start["run_group"], start["job_type"]) == ("a sweep", "train")

    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    curve = {key: [(item["epoch"], item[key]) for item in history if key in item]
             for key in ("train/loss/task", "eval/top1/b030", "eval_ema/top1/b030", "eval/conditional_fraction/b0335")}
    assert curve == {"train/loss/task": [(1, 2.0), (2, 1.0)], "eval/top1/b030": [(1, 60.5), (2, 59.5)],
                     "eval_ema/top1/b030": [(1, 10.0), (2, 11.0)],
                     "eval/conditional_fraction/b0335": [(1, pytest.approx(0.345)), (2, pytest.approx(0.345))]}
    assert [item["epoch"] for item in history] == [1, 2, 2, 2]  # a row an epoch, the pictures and the table
    assert ["pictures/training" in {key.partition(".")[0] for key in item} for item in history] == [
        False, True, False, False]
    logged = {key for item in history for key in item if not key.startswith(("pictures", "results", "accuracy"))}
    assert not [key for key in logged if "." in key]
    assert not logged & {"train/loss/budget", "train/epoch", "train/kind", "eval/images/b030", "eval_ema/weights/b030"}
    assert any(record.get("metric", {}).get("step_metric") == "epoch" for record in records)

    final = summary["summary"]
    assert final["final/top1/b030"] == 52.5 and final["final_ema/top1/b030"] == 61.5
    assert final["final/macs/b0335"] == pytest.approx(1.34e7) and final["final/parameters"] == 270000
    assert (final["best/top1/b030"], final["best/epoch"]) == (60.5, 1)
    assert (final["best_ema/top1/b030"], final["best_ema/epoch"]) == (11.0, 2)
    table = json.loads((where / "files" / final["results"]["path"]).read_text())
    assert dict(zip(table["columns"], table["data"][3]))["top1"] == 70.25
    assert (where / "files" / final["pictures/masks"]["path"]).is_file()
    plot = next(record["config"]["update"]["_wandb.visualize.accuracy_over_macs"] for record in records
                if "_wandb.visualize.accuracy_over_macs" in record.get("config", {}).get("update", {}))
    assert plot["panel_config"]["fieldSettings"] == {"x": "macs", "y": "top1", "stroke": "weights"}
    assert final["accuracy_over_macs_table"]["path"] == final["results"]["path"]


@pytest.mark.slow
def test_jobs_one_after_another_are_separate_runs_and_a_crashed_one_shows_as_failed(tmp_path):
    folders = []
    with pytest.raises(ZeroDivisionError), tracker(tmp_path / "first", "first") as run:
        folders.append(run.where)
        run.log_eval(ROWS[:1])
        raise ZeroDivisionError
    with tracker(tmp_path / "second", "second", config={"seed": 2}) as run:
        folders.append(run.where)
        run.log_eval(ROWS[1:])
    first, second = (read(folder)[1] for folder in folders)
    assert (first["run_id"], first["exit_code"]) == ("first", 1) and first["state"] != "finished"
    assert (second["run_id"], second["exit_code"], second["config"]) == ("second", 0, {"seed": 2})
    assert "eval/top1/b030" in first["summary"] and "eval/top1/b0335" not in first["summary"]
    assert "eval/top1/b0335" in second["summary"] and "eval/top1/b030" not in second["summary"]


@pytest.mark.slow
def test_a_run_that_someone_left_open_is_not_written_to(tmp_path):
    other = wandb.init(project="other", dir=str(tmp_path), id="other", settings=wandb.Settings(silent=True))
    folder = Path(other.dir).parent
    with tracker(tmp_path / "job") as run:
        run.log_eval(ROWS)
        assert run.where != str(folder)
    other.finish()
    assert not [key for key in read(folder)[1]["summary"] if key.startswith("eval")]


@pytest.mark.slow
def test_the_first_exit_code_counts(tmp_path):
    with tracker(tmp_path) as run:
        where = run.where
        run.finish(3)
    assert read(where)[1]["exit_code"] == 3


def test_without_a_login_a_run_is_offline_and_quiet(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.delenv("WANDB_MODE")
    with tracker(tmp_path) as run:
        assert "offline-run" in run.where
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("bdsa")]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["0123456789" * 4, "too-short"])
def test_a_run_that_cannot_start_online_goes_on_offline_with_a_warning(tmp_path, monkeypatch, caplog, key):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    with caplog.at_level(logging.WARNING, "bdsa"), tracker(tmp_path) as run:
        where = run.where
        run.log_eval(ROWS)
    assert "recorded offline" in caplog.text
    assert read(where)[1]["summary"]["eval/top1/b030"] == 61.5


def test_wandb_mode_is_read_at_each_start(tmp_path, monkeypatch):
    with tracker(tmp_path / "first", "first"):
        pass
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with tracker(tmp_path / "second", "second") as run:
        run.log_eval(ROWS)
        run.log_table(ROWS, {})
        assert run.where is None
    assert not (tmp_path / "second" / "wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(UserError, match="did you mean 'offline'"):
        tracker(tmp_path / "third")


def test_no_tracker_has_every_method_of_the_real_one_and_leaves_no_trace(tmp_path):
    def public(kind):
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in methods
                if not name.startswith("_") or name in ("__enter__", "__exit__")}

    assert public(NoTracker) == public(WandbTracker)
    with tracker(tmp_path / "job", mode="none") as run:
        run.catch_up(ROWS, {1: "missing.png"})
        run.log_train({"epoch": 1})
        assert not run.wants_picture(2)
        run.log_training_picture("missing.png")
        run.log_eval(ROWS)
        run.log_pictures({"masks": "missing.png"})
        run.log_table(ROWS, {})
        run.finish(0)
        assert run.where is None
    assert not (tmp_path / "job").exists()


def test_wrong_arguments_are_said(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'wandbb'.*did you mean 'wandb'"):
        tracker(tmp_path, mode="wandbb")
    with pytest.raises(UserError, match="refuses this run"), tracker(tmp_path, project="a/b"):
        pass
    with pytest.raises(TypeError, match="plain dict"):
        tracker(tmp_path, config=type("Config", (dict,), {})())
