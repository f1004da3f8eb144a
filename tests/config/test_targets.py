"""Targets of awareness: made from single-budget runs, read from a CSV, turned into weights."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import TINY, run
from omegaconf import OmegaConf
from run_folders import write_run

from bdsa.budgets import Budgets
from bdsa.commands.entry_points import train as train_main
from bdsa.commands.targets import main as targets_main
from bdsa.config.targets import read_targets
from bdsa.errors import UserError
from bdsa.method.awareness import awareness_weights
from bdsa.runs.metrics import MetricsFile
from bdsa.runs.tracker import NoTracker

QUICK = [*TINY, "recipe.epochs=1", "trainer.pictures=0", "budgets.calibrate=false"]


@pytest.fixture(scope="module")
def singles(tmp_path_factory) -> Path:
    """Two finished runs of one budget each, as a sweep makes them."""
    folder = tmp_path_factory.mktemp("singles")
    outcome = run(train_main, ["-m", *QUICK, f"out={folder}", "budgets.targets=[0.3],[0.7]"])
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def made(tmp_path, singles):
    """Make a run's folder out of a finished one: made("a", 0.3, top1=50, **{"trainer.seed": 1})."""
    def make(name: str, budget: float, top1: float = 50.0, results: dict | None = None, **settings) -> str:
        source = next(p for p in singles.glob("*-0.3-*") if p.is_dir())
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(source / "environment.json", folder)
        config = OmegaConf.load(source / "config.yaml")
        content = {**json.loads((source / "results.json").read_text()), **(results or {})}
        if "trained_budgets" not in (results or {}):
            content["trained_budgets"] = [budget]
            config.budgets.targets = [budget]
        for key, value in settings.items():
            OmegaConf.update(config, key, value)
        rows = content["rows"]
        rows[0]["budget"], rows[0]["top1"], rows[0]["conditional_fraction"] = budget, top1, budget
        content["rows"] = rows[:1] if budget == 1 else rows
        (folder / "results.json").write_text(json.dumps(content))
        OmegaConf.save(config, folder / "config.yaml")
        return str(folder)
    return make


def collect(*arguments: str) -> str:
    outcome = run(targets_main, list(arguments))
    assert outcome.code == 0, outcome.err
    return outcome.out


# --- from runs to the file -------------------------------------------------------------------------

def test_runs_from_before_a_setting_existed_had_its_default(tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", (0.3,), **{"trainer.seed": seed}) for seed in (0, 1)]
    for name, settings in (("seed0", {"model": ["submanifold"]}), ("seed1", {"budgets": ["tolerance"],
                                                                             "data": ["root", "seed"]})):
        config = OmegaConf.load(tmp_path / name / "config.yaml")
        for section, keys in settings.items():
            for key in keys:
                del config[section][key]
        OmegaConf.save(config, tmp_path / name / "config.yaml")
    without_root = OmegaConf.load(runs[0] / "config.yaml")
    without_root.data.root = None
    OmegaConf.save(without_root, runs[0] / "config.yaml")
    assert "mean of 2 runs" in collect(*map(str, runs), f"out={tmp_path}/t.csv")



@pytest.mark.slow
def test_single_budget_runs_become_the_targets_of_a_run_of_both(singles, tmp_path):
    file = tmp_path / "made" / "targets.csv"
    folders = sorted(str(p) for p in singles.iterdir() if p.is_dir())
    out = collect(*folders, f"out={file}")
    assert "cifar_resnet8" in out and "1 run" in out and str(file) in out and "missing" not in out
    top1 = {r["budget"]: r["top1"] for f in folders for r in json.loads(Path(f, "results.json").read_text())["rows"]
            if r["budget"] < 1}
    assert read_targets(str(file), "cifar_resnet8", Budgets([0.3, 0.7])) == pytest.approx([top1[0.3], top1[0.7]],
                                                                                          abs=1e-3)
    header, row = file.read_text().splitlines()
    assert header == "model,0.3,0.7,data,split,runs" and "cluttered_digits at 32 pixels" in row and ",test," in row
    assert all(f in row for f in folders)

    both = ["budgets.targets=[0.3,0.7]", "awareness=l1", f"awareness.targets={file}", "recipe.epochs=2"]
    outcome = run(train_main, [*QUICK, f"out={tmp_path}", "name=both", *both])
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "both/results.json").read_text())
    assert results["awareness"] == {"metric": "l1", "targets": {"b030": pytest.approx(top1[0.3], abs=1e-3),
                                                                "b070": pytest.approx(top1[0.7], abs=1e-3)}}


@pytest.mark.slow
def test_seeds_are_averaged_models_get_rows_and_what_is_missing_is_said(made, tmp_path):
    runs = [made("a", 0.3, 60.0), made("b", 0.3, 62.0, **{"trainer.seed": 1}), made("c", 0.7, 70.0),
            made("d", 1.0, 80.0), made("e", 0.3, 55.0, {"model": "cifar_resnet14"}, **{"model.name": "cifar_resnet14"})]
    out = collect(*runs, f"out={tmp_path}/t.csv", "budgets=[0.3,0.5]")
    assert "61.00 %  mean of 2 runs" in out
    assert "missing: cifar_resnet14 at 0.5, 0.7, 1;" in out and "missing: cifar_resnet8 at 0.5;" in out
    assert read_targets(f"{tmp_path}/t.csv", "cifar_resnet8", Budgets([0.3, 0.7, 1.0])) == [61.0, 70.0, 80.0]
    with pytest.raises(UserError, match=r"no entry for cifar_resnet14 at budget 0.7 \(there: 0.3\)"):
        read_targets(f"{tmp_path}/t.csv", "cifar_resnet14", Budgets([0.3, 0.7]))
    assert f"0.3: {runs[0]} {runs[1]}; 0.7: {runs[2]}; 1: {runs[3]}" in (tmp_path / "t.csv").read_text()


@pytest.mark.slow
def test_the_dense_row_of_several_budgets_is_taken_only_when_asked_for(made, tmp_path):
    several = made("several", 1.0, 77.0, {"trained_budgets": [0.3, 1.0]})
    refused = run(targets_main, [several, f"out={tmp_path}/t.csv"])
    assert refused.code == 1 and "several trained 2 budgets at once (0.3, 1)" in refused.err
    assert "dense=true" in refused.err and not (tmp_path / "t.csv").exists()
    collect(several, made("a", 0.3), f"out={tmp_path}/t.csv", "dense=true")
    assert read_targets(f"{tmp_path}/t.csv", "cifar_resnet8", Budgets([1.0])) == [77.0]
    untrained = made("untrained", 0.5, 40.0, {"trained_budgets": [0.5, 0.7]})
    refused = run(targets_main, [untrained, "dense=true"])
    assert refused.code == 1 and "0.5, 0.7 and not 1" in refused.err


@pytest.mark.slow
def test_a_budget_that_a_run_missed_is_said(made, tmp_path):
    folder = made("a", 0.3)
    results = json.loads(Path(folder, "results.json").read_text())
    results["rows"][0]["conditional_fraction"] = 0.41
    Path(folder, "results.json").write_text(json.dumps(results))
    out = collect(folder, f"out={tmp_path}/t.csv")
    assert f"note: {folder} ran 0.410 of the conditional MACs for budget 0.3" in out


@pytest.mark.slow
@pytest.mark.parametrize("change, expected", [
    ({"results": {"data": "cifar10"}}, ["differ in their data", "cifar10", "comparable"]),
    ({"results": {"split": "val"}}, ["differ in their split (test; val)"]),
    ({"data.seed": 4}, ["differ in their data", "seed 0", "seed 4"]),
    ({"budget": 0.3, "recipe.lr": 0.5}, ["cifar_resnet8 at 0.3", "recipe.lr: 0.002 -> 0.5", "seeds only"]),
    ({"model.args": {"shortcut": "B"}}, ["differ in its arguments", "shortcut"]),
])
def test_runs_that_cannot_be_compared_are_refused(made, tmp_path, change, expected):
    folders = [made("a", 0.3), made("b", change.pop("budget", 0.7), **change)]
    outcome = run(targets_main, [*folders, f"out={tmp_path}/t.csv"])
    assert outcome.code == 1 and not (tmp_path / "t.csv").exists()
    assert all(text in outcome.err for text in [*expected, *folders]), outcome.err


@pytest.mark.slow
def test_a_stopped_run_is_named_with_the_command_that_goes_on(made, tmp_path):
    folders = [made("a", 0.3), made("b", 0.7)]
    for folder in folders:
        Path(folder, "results.json").unlink()
    outcome = run(targets_main, folders)
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1
    assert all(f"{f} is not finished, `bdsa" in outcome.err for f in folders)
    assert outcome.err.count("model=cifar_resnet8") == outcome.err.count("goes on with it") > 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    ([], "no runs"), (["{a}", "{a}/"], "given twice"), (["{a}x"], "did you mean 'a'"), (["{a}/.."], "holds no run"),
    (["{a}", "otu=t.csv"], "did you mean 'out'"), (["{a}", "--out", "t.csv"], "unknown option --out"),
    (["{a}", "out={a}/mine.csv"], "was not made by bdsa-targets"), (["{a}", "budgets=[3]"], "budget 3")])
def test_a_wrong_command_line_is_explained(made, tmp_path, monkeypatch, arguments, expected):
    folder = made("a", 0.3)
    Path(folder, "mine.csv").write_text("model,0.3\nresnet8,90\n")
    monkeypatch.chdir(tmp_path)
    outcome = run(targets_main, [a.format(a=folder) for a in arguments])
    assert outcome.code == 1 and expected in outcome.err and len(outcome.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.csv")) and "resnet8,90" in Path(folder, "mine.csv").read_text()


@pytest.mark.slow
def test_a_file_of_its_own_is_replaced_and_help_says_what_there_is(made, tmp_path):
    collect(made("a", 0.3), f"out={tmp_path}/t.csv")
    collect(made("b", 0.7), f"out={tmp_path}/t.csv")
    assert "0.3" not in (tmp_path / "t.csv").read_text().splitlines()[0]
    assert all(text in collect("--help") for text in ("out=targets.csv", "dense=false", "bdsa-targets"))


# --- from the file to the weights ------------------------------------------------------------------

def test_a_file_from_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "t.csv").write_text("model,0.3,1.0,remark\r\nresnet8, 50,60,\"mine, old\"\r\n", encoding="utf-8-sig")
    assert read_targets(f"{tmp_path}/t.csv", "cifar_resnet8", Budgets([0.3, 1.0])) == [50.0, 60.0]


@pytest.mark.parametrize("content, row, message", [
    (b"model,0.3\nresnet8,50\nresnet8,51\n", "resnet8", "two rows for resnet8"),
    (b"\xff\xfe\x00", "resnet8", "is not a CSV file"), (b"name,0.3\nresnet8,50\n", "resnet8", "no column 'model'"),
    (b"model,0.3\nresnet8,0\n", "resnet8", "is not a top-1"), (b"model,0.3\nresnet8,\n", "resnet8", "no entry"),
    (b"model,0.3\nresnet50,7\n", "resnet5", "did you mean 'resnet50'")])
def test_a_file_that_cannot_be_used_is_explained(tmp_path, content, row, message):
    (tmp_path / "targets.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_targets(f"{tmp_path}/targets.csv", row, Budgets([0.3]))
    with pytest.raises(UserError, match=r"did you mean '.*/targets.csv'"):
        read_targets(f"{tmp_path}/targts.csv", row, Budgets([0.3]))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_a_resumed_run_keeps_its_weights(tmp_path, monkeypatch, metric):
    """The second epoch's weights come from the first one's top-1, which only the checkpoint remembers."""
    (tmp_path / "t.csv").write_text("model,0.3,0.7,1\nresnet8,40,99,70\n")
    command = [*QUICK, "recipe.epochs=2", f"out={tmp_path}", "name=a", "budgets.targets=[0.3,0.7,1.0]",
               f"awareness={metric}", f"awareness.targets={tmp_path}/t.csv"]
    real = NoTracker.log_train
    monkeypatch.setattr(NoTracker, "log_train", lambda self, row: (_ for _ in ()).throw(KeyboardInterrupt)
                        if row["epoch"] == 2 else real(self, row))
    assert run(train_main, command).code == 130
    monkeypatch.undo()
    outcome = run(train_main, command)
    assert outcome.code == 0 and "resuming after epoch 1" in outcome.out
    rows = MetricsFile(tmp_path / "a/metrics.jsonl").read()
    first, second = (list(r["weight"].values()) for r in rows if r["kind"] == "train")
    top1 = [r["top1"] for r in rows if r["kind"] == "eval" and r["epoch"] == 1]
    assert first == [1, 1, 1] and second == awareness_weights(metric, top1, [40.0, 99.0, 70.0])
    assert sum(second) == pytest.approx(3) and max(second) > 1.05
