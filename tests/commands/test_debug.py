"""debug=quick: any training's command line as a run of seconds, which says so and keeps to itself."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from omegaconf import OmegaConf

from bdsa.commands.entry_points import train

SMALL = ["model=cifar_resnet8", "data.image_size=32", "data.train_images=200", "data.val_images=40",
         "data.test_images=40"]


def test_a_debug_run_finishes_says_so_and_stays_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    real = tmp_path / "runs" / "mine"
    real.mkdir(parents=True)
    outcome = run(train, [*SMALL, "debug=quick", "name=mine"])
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("debug=quick: ") and "its numbers mean nothing" in outcome.out
    assert not list(real.iterdir())
    results = json.loads((tmp_path / "debug" / "mine" / "results.json").read_text())
    assert {row["images"] for row in results["rows"]} == {32}
    assert len((tmp_path / "debug/mine/metrics.jsonl").read_text().splitlines()) == 1 + len(results["rows"])


def test_it_shrinks_presets_and_yields_to_the_command_line() -> None:
    composed = run(train, ["experiment=imagenet_resnet18_multi", "data.root=x", "debug=quick", "recipe.batch_size=4",
                           "--cfg", "job"])
    config = OmegaConf.create(composed.out)
    assert config.model.name.startswith("resnet18") and config.recipe.epochs == 1 and config.tracker.mode == "none"
    assert config.recipe.batch_size == 4


def test_without_it_nothing_is_said_to_be_a_debug_run(tmp_path: Path) -> None:
    outcome = run(train, [*SMALL, "recipe.epochs=1", "trainer.limit_train_batches=2", "trainer.latency=false",
                          "trainer.pictures=0", "tracker=none", "budgets.targets=[0.5]",
                          f"out={tmp_path}"])
    assert outcome.code == 0 and "debug" not in outcome.out and "mean nothing" not in outcome.out


@pytest.mark.slow
def test_help_lists_it() -> None:
    assert "\ndebug: quick\n" in run(train, ["--help"]).out
