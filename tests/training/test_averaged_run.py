"""A run with everything that a published recipe switches on: resumed bit for bit, averaged and raw results."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import TINY, run

from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.models.weights import read_file
from bdsa.runs.metrics import MetricsFile
from bdsa.runs.tracker import NoTracker

pytestmark = pytest.mark.slow

SMALL = [t for t in TINY if not t.startswith("recipe.batch_size")]
ALL = [*SMALL, "budgets.targets=[0.3,0.7]", "recipe.batch_size=8", "recipe.accumulation=5", "recipe.mixup=0.8",
       "recipe.cutmix=1.0", "recipe.label_smoothing=0.1", "recipe.ema_decay=0.5", "recipe.freeze_backbone_epochs=2",
       "recipe.backbone_lr_scale=0.2", "recipe.drop_path=0.1", "recipe.clip_grad=1", "trainer.amp=bfloat16",
       "data.rand_augment=rand-m9-mstd0.5-inc1", "data.random_erasing=0.25"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    outcome = run(train_main, [*ALL, f"out={folder.parent}", f"name={folder.name}"])
    assert outcome.code == 0, outcome.err
    (folder / "shown").write_text(outcome.out)
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def same(one, two) -> bool:
    """Whether nested dictionaries hold the same values and the same bits of tensors."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_a_stopped_run_goes_on_bit_for_bit_with_everything_on(trained, tmp_path, monkeypatch):
    def stop(self, rows):
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(NoTracker, "log_eval", stop)
    assert run(train_main, [*ALL, f"out={tmp_path}", "name=parts"]).code == 130
    monkeypatch.undo()
    torch.rand(7)
    outcome = run(train_main, [*ALL, f"out={tmp_path}", "name=parts"])
    assert outcome.code == 0 and "resuming after epoch 1" in outcome.out
    for name in ("last.pt", "best.pt", "best_ema.pt"):
        one, two = (read_file(p / "checkpoints" / name) for p in (trained, tmp_path / "parts"))
        one.pop("config"), two.pop("config")
        assert one.keys() == two.keys()
        assert [key for key in one if not same(one[key], two[key])] == []
    assert results(trained) == results(tmp_path / "parts")


def test_every_epoch_measures_raw_and_averaged_weights(trained):
    rows = [r for r in MetricsFile(trained / "metrics.jsonl").read() if r["kind"] == "eval"]
    assert [(r["epoch"], r["weights"], r["name"]) for r in rows] == [
        (e, w, n) for e in (1, 2, 3) for w in ("raw", "ema") for n in ("b030", "b070")]
    assert [r["conditional_fraction"] for r in rows if r["weights"] == "raw"] != [
        r["conditional_fraction"] for r in rows if r["weights"] == "ema"]


def test_the_result_is_the_averaged_network_and_the_raw_one_stands_beside_it(trained):
    made = results(trained)
    assert made["weights"] == "ema" and made["rows"] != made["raw"]["rows"]
    assert [r["name"] for r in made["raw"]["rows"]] == ["b030", "b070", "b100"]
    shown = (trained / "shown").read_text()
    assert "averaged weights" in shown and "best_ema.pt" in shown and f"epoch {made['raw']['epoch']}" in shown
    for name, rows in (("best_ema", made["rows"]), ("best", made["raw"]["rows"])):
        outcome = run(evaluate_main, [f"checkpoint={trained}/checkpoints/{name}.pt", "trainer.eval_batch_size=20",
                                      "execution=masked"])
        assert outcome.code == 0, outcome.err
        assert results(trained / f"evaluations/{name}-cluttered_digits-test-masked")["rows"] == rows
        for row in (r for r in rows if r["name"] != "b100"):  # calibrated, each by itself
            assert row["conditional_fraction"] == pytest.approx(row["budget"], abs=0.08)


def test_the_whole_training_is_used_up_by_updates_of_five_micro_batches(trained):
    rows = [r for r in MetricsFile(trained / "metrics.jsonl").read() if r["kind"] == "train"]
    assert [r["step"] for r in rows] == [10, 20, 30]           # 12 batches an epoch, of which 10 fill updates
