"""bdsa-pipeline: both stages and the table with one command, which goes on where it was stopped."""
from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from command_line import TINY, Outcome, run

from bdsa.commands.entry_points import pipeline as pipeline_main
from bdsa.commands.entry_points import train as train_main
from bdsa.runs.metrics import MetricsFile
from bdsa.training.step import TrainStep

pytestmark = pytest.mark.slow

QUICK = [*TINY, "trainer.pictures=0", "trainer.threads=1", "recipe.epochs=2", "budgets.targets=[0.3,1.0]"]


def pipeline(out: Path, *arguments: str) -> Outcome:
    return run(pipeline_main, [*QUICK, f"out={out}", *arguments])


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def top1(folder: Path) -> dict[float, float]:
    return {row["budget"]: row["top1"] for row in results(folder)["rows"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Outcome]:
    """A pipeline that was stopped in each of its stages, and its last output."""
    out = tmp_path_factory.mktemp("pipeline")
    arguments = ["pipeline.metrics=[none,l2]", "pipeline.single.recipe.epochs=1", "pipeline.multi.recipe.lr=0.001"]
    start_epoch = TrainStep.start_epoch
    for stage, runs in (("singles", 1), ("multi", 3)):
        def stop(self, epoch, stage=stage, runs=runs):
            if (out / stage).exists() and len(list(out.glob("*/*/config.yaml"))) > runs:
                raise KeyboardInterrupt
            start_epoch(self, epoch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainStep, "start_epoch", stop)
            assert pipeline(out, *arguments).code == 130
    return out, pipeline(out, *arguments)


def test_it_trains_singles_then_all_budgets_with_their_targets(made):
    out, outcome = made
    assert outcome.code == 0, outcome.err
    singles, multi = ([results(p) for p in sorted((out / stage).iterdir())] for stage in ("singles", "multi"))
    assert sorted(r["trained_budgets"] for r in singles) == [[0.3], [1.0]]
    assert [r["trained_budgets"] for r in multi] == [[0.3, 1.0]] * 2
    (aware,) = [r["awareness"] for r in multi if "awareness" in r]
    single = {b: t for p in (out / "singles").iterdir() for b, t in top1(p).items()
              if b in results(p)["trained_budgets"]}
    assert aware == {"metric": "l2", "targets": pytest.approx({"b030": single[0.3], "b100": single[1.0]})}
    (path,) = out.glob("targets-*.csv")
    (row,) = csv.DictReader(path.open())
    assert float(row["0.3"]) == pytest.approx(single[0.3]) and float(row["1"]) == pytest.approx(single[1.0])


def test_a_stages_own_settings_are_its_alone(made):
    for stage, epochs, lr in (("singles", 1, 0.002), ("multi", 2, 0.001)):
        for folder in (made[0] / stage).iterdir():
            rows = [r for r in MetricsFile(folder / "metrics.jsonl").read() if r["kind"] == "train"]
            assert len(rows) == epochs and f"lr: {lr}" in (folder / "config.yaml").read_text()


def test_the_table_compares_one_network_with_a_network_a_budget(made):
    out, outcome = made
    record = json.loads((out / "pipeline.json").read_text())[0]
    lines = [line.strip("| ").split(" | ") for line in (out / "table.md").read_text().splitlines() if "|" in line]
    assert lines[0] == ["budget", "single", "all budgets, none", "all budgets, l2", "none - single", "l2 - single"]
    for line, budget in zip(lines[2:], ("0.3", "1"), strict=True):
        single = top1(Path(record["singles"][budget][0]))[float(budget)]
        none, l2 = (top1(Path(record["multi"][m][0]))[float(budget)] for m in ("none", "l2"))
        assert line[0] == budget and line[1].startswith(f"{single:.2f} (") and line[3].startswith(f"{l2:.2f} (")
        assert line[4:] == [f"{none - single:+.2f}", f"{l2 - single:+.2f}"]
        assert line[1] in outcome.out
    assert f"bdsa-report {out}/singles/*/ {out}/multi/*/" in outcome.out


def test_again_it_trains_nothing_and_shows_the_same(made):
    out, before = made
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name not in ("table.md", "pipeline.json")
             and p.is_file() and not p.name.startswith("targets")}
    outcome = pipeline(out, "pipeline.metrics=[none,l2]", "pipeline.single.recipe.epochs=1",
                       "pipeline.multi.recipe.lr=0.001")
    assert outcome.code == 0 and "4 skipped" in outcome.out
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert outcome.out.split("none - single")[1] == before.out.split("none - single")[1]


def test_a_run_of_it_is_a_run_of_bdsa_train(made):
    for folder in [*(made[0] / "singles").iterdir(), *(made[0] / "multi").iterdir()]:
        name, *words = shlex.split(json.loads((folder / "environment.json").read_text())["command"])
        out = run(train_main, words).out
        assert name == "bdsa-train" and "this run is finished" in out and str(folder) in out


def test_without_a_target_nothing_is_trained_for_it(tmp_path):
    outcome = pipeline(tmp_path, "pipeline.single.recipe.optimizer=addam", "recipe.epochs=1",
                       "budgets.targets=[0.3]")
    assert outcome.code == 1 and "1 of 1 jobs failed" in outcome.out and "a target, is missing" in outcome.out
    assert not (tmp_path / "multi").exists() and not list(tmp_path.glob("targets-*"))


@pytest.mark.parametrize("arguments, expected", [
    (["awareness=l1"], ["awareness=l1", "pipeline.metrics=[l1]"]),
    (["awareness.targets=cifar10"], ["awareness.targets", "makes its own"]),
    (["name=a"], ["name=a", "many runs"]),
    (["pipeline.metrics=[l3]"], ["l3", "none, l1, l2"]),
    (["pipeline.metrics=[]"], ["pipeline.metrics", "at least one"]),
    (["pipeline.single.recipe.epoch=3"], ["recipe.epoch", "did you mean 'recipe.epochs'"]),
    (["pipeline.multi.awareness.metric=l1"], ["pipeline.multi.awareness.metric", "leave it out"]),
    (["pipeline.metric=[l1]"], ["pipeline.metric", "pipeline.metrics"]),
    (["budgets.targets=[0.3,3]"], ["budget 3"]),
    (["recipe.momentum=nan"], ["recipe.momentum=nan is not a finite number"]),
])
def test_what_it_cannot_do_is_said_before_anything_runs(tmp_path, arguments, expected):
    outcome = pipeline(tmp_path / "runs", *arguments)
    assert outcome.code == 1 and not list(tmp_path.rglob("*.json"))
    (line,) = [line for line in outcome.err.splitlines() if line.strip()]
    assert line.startswith("error: ") and all(part in line for part in expected), line
