"""W&B runs that were stopped and go on: every epoch once, whatever was cut off, as `wandb sync` would upload it."""
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import TINY, run
from matplotlib.image import imsave
from numpy import zeros
from test_tracker import ROWS, alone, read, tracker  # noqa: F401  (a fixture that every test here uses)

import bdsa.runs.trackers.wandb
from bdsa.commands.entry_points import train as train_main
from bdsa.runs.metrics import MetricsFile, flat
from bdsa.runs.trackers.wandb import WandbTracker

pytestmark = pytest.mark.slow

pytest.importorskip("wandb")


def epochs(*numbers: int) -> list[dict]:
    """Rows of a metrics file."""
    return [row for epoch in numbers for row in ({"kind": "train", "epoch": epoch, "loss": {"task": 1.0 / epoch}},
                                                 *({**r, "epoch": epoch, "weights": "raw"} for r in ROWS))]


def log_epoch(run, epoch: int) -> None:
    train, *measured = epochs(epoch)
    run.log_train(train)
    run.log_eval(measured)


def history(where: Path) -> list[dict]:
    return [r["history"]["item"] for r in read(where)[0] if r["type"] == "history"]


def to_upload(folder: Path) -> list[Path]:
    """What `wandb sync FOLDER/wandb` takes, in its order."""
    return [p for p in sorted((folder / "wandb").glob("offline-run-*")) if not list(p.glob("*.wandb.synced"))]


def test_a_resumed_offline_run_is_one_folder_with_every_epoch_once(tmp_path):
    """Also where the stop left half a record, which `wandb sync` would not get over, or an epoch without checkpoint."""
    picture = tmp_path / "masks.png"
    imsave(picture, zeros((4, 4, 3)))
    with pytest.raises(KeyboardInterrupt), tracker(tmp_path) as first:
        for epoch in (1, 2, 3):
            log_epoch(first, epoch)
        raise KeyboardInterrupt
    (file,) = Path(first.where).glob("*.wandb")
    with file.open("r+b") as log:
        log.truncate(file.stat().st_size * 2 // 3)
    with tracker(tmp_path) as second:
        second.catch_up(epochs(1, 2), {2: picture})  # epoch 3 was not kept
        log_epoch(second, 3)
    assert to_upload(tmp_path) == [Path(second.where)] and second.where != first.where
    assert (tmp_path / "wandb/latest-run").resolve() == Path(second.where)
    items = history(Path(second.where))
    assert [(i["epoch"], i["train/loss/task"], i["eval/top1/b030"]) for i in items] == [
        (1, 1.0, 61.5), (2, 0.5, 61.5), (3, pytest.approx(1 / 3), 61.5)]
    assert items[1]["pictures/training._type"] == "image-file"


def test_epochs_that_were_uploaded_already_are_not_uploaded_twice(tmp_path):
    with tracker(tmp_path) as first:
        for epoch in (1, 2):
            log_epoch(first, epoch)
    (file,) = Path(first.where).glob("*.wandb")
    file.with_name(file.name + ".synced").touch()  # as wandb sync does
    with tracker(tmp_path) as second:
        second.catch_up(epochs(1), {})
        for epoch in (2, 3):
            log_epoch(second, epoch)
    assert to_upload(tmp_path) == [Path(second.where)] and file.exists()
    records, summary = read(second.where)
    assert [r["history"]["item"]["epoch"] for r in records if r["type"] == "history"] == [3]
    assert summary["run_id"] == "run-one" and summary["summary"]["best/epoch"] == 1


def test_a_resumed_online_run_gets_what_its_server_lacks(tmp_path, monkeypatch):
    rows = []
    online = SimpleNamespace(
        dir=str(tmp_path / "wandb/run-now-run-one/files"), url="https://server/run-one", summary={"epoch": 2},
        settings=SimpleNamespace(mode="online"), define_metric=lambda *_, **__: None, log=rows.append,
        finish=lambda exit_code: None)
    monkeypatch.setattr(bdsa.runs.trackers.wandb, "start", lambda *_: online)
    left = tmp_path / "wandb/offline-run-before-run-one"  # from a start without network
    left.mkdir(parents=True)
    with tracker(tmp_path) as run:
        run.catch_up(epochs(1, 2, 3), {})
        log_epoch(run, 4)
        assert run.where == online.url
    assert [row["epoch"] for row in rows] == [3, 4] and not left.exists()


def test_a_killed_training_of_a_sweep_mirrors_its_metrics_file(tmp_path, monkeypatch):
    arguments = ["-m", *(a for a in TINY if a != "tracker=none"), f"out={tmp_path}/depth", "trainer.seed=3",
                 "trainer.pictures=2", "tracker.pictures_every=2", "budgets.targets=[0.5]"]
    real = WandbTracker.log_eval

    def stop(self, rows):
        real(self, rows)
        if rows[0]["epoch"] == 2:  # logged, and its checkpoint is not written yet
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WandbTracker, "log_eval", stop)
        assert run(train_main, arguments).code == 130
    (folder,) = (p.parent for p in (tmp_path / "depth").glob("*/wandb"))
    (before,) = to_upload(folder)
    outcome = run(train_main, arguments)
    assert outcome.code == 0 and "resuming after epoch 1" in outcome.out, outcome.err

    (where,) = to_upload(folder)
    assert where != before and f"tracker    {where}" in outcome.out
    records, summary = read(where)
    start = next(record["run"] for record in records if record["type"] == "run")
    assert (start["run_group"], start["job_type"]) == ("depth", "train")
    assert summary["run_id"] == json.loads((folder / "environment.json").read_text())["run_id"] and (
        summary["exit_code"] == 0)
    items = [r["history"]["item"] for r in records if r["type"] == "history"]
    assert [i["epoch"] for i in items] == [1, 2, 3, 3, 3]
    rows = MetricsFile(folder / "metrics.jsonl").read()
    for item, train, measured in zip(items, rows[::2], rows[1::2]):
        logged = {f"train/{k}": v for k, v in flat(train).items() if k not in ("kind", "epoch")}
        assert logged == {k: pytest.approx(v) for k, v in item.items() if k.startswith("train/")}
        for key in ("train/loss/network", "train/weight/b050", "train/fraction/b050", "train/temperature"):
            assert key in item
        for key in ("top1", "conditional_fraction", "macs"):
            assert item[f"eval/{key}/b050"] == pytest.approx(measured[key])
    assert ["pictures/training.path" in item for item in items[:3]] == [False, True, False]
    (picture,) = (folder / "pictures/training").iterdir()
    assert picture.name == "epoch_0002.png"
    results, final = json.loads((folder / "results.json").read_text()), summary["summary"]
    assert final["best/epoch"] == results["epoch"] == final["final/epoch"]
    table = json.loads((where / "files" / final["results"]["path"]).read_text())
    assert [dict(zip(table["columns"], row)) for row in table["data"]] == [
        {"weights": "raw", **row} for row in results["rows"]]
    assert {"pictures/masks", "pictures/curves", "pictures/density", "pictures/accuracy_cost"} <= set(final)
