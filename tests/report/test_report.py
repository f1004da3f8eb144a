"""bdsa-report and bdsa-compare: the numbers in the tables, what is missing, and what is said about broken folders."""
from __future__ import annotations

import csv
import io
import re
import shlex
import statistics
from html import escape
from pathlib import Path

import pytest
from command_line import run
from run_folders import DENSE_MACS, macs_of, top1_of, write_run

from bdsa.commands import report as report_command
from bdsa.commands.entry_points import train as train_main
from bdsa.commands.report import main as report_main
from bdsa.errors import UserError
from bdsa.report.intervals import wilson
from bdsa.report.missing import command_of
from bdsa.report.tables import latex_text
from bdsa.runs import failures
from bdsa.runs.reading import read_run

SEED, AWARE = "trainer.seed", "awareness.metric"


@pytest.fixture
def quick(monkeypatch):
    """Without the plots, which take longest."""
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])


def report(*arguments: object) -> str:
    outcome = run(report_main, [str(a) for a in arguments])
    assert outcome.code == 0, outcome.err
    return outcome.out


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "report.csv").read_text())))


# --- tables ----------------------------------------------------------------------------------------

def test_seeds_become_a_mean_beside_the_published_number(tmp_path, quick):
    for seed in (0, 1, 4):
        write_run(tmp_path / "runs" / f"s{seed}", latency=4.0, **{SEED: seed})
    out = report(tmp_path / "runs", f"out={tmp_path}/made")
    rows = {float(r["budget"]): r for r in rows_of(tmp_path / "made")}
    for budget, published in ((0.3, 91.22), (0.5, 92.00), (0.7, 92.91)):
        values, row = [top1_of(budget, seed) for seed in (0, 1, 4)], rows[budget]
        assert float(row["top1"]) == pytest.approx(statistics.mean(values))
        assert float(row["top1_deviation"]) == pytest.approx(statistics.stdev(values))
        assert float(row["difference"]) == pytest.approx(statistics.mean(values) - published)
        ends = [statistics.mean(values) + side * statistics.stdev(values) for side in (-1, 1)]
        assert [float(row["top1_low"]), float(row["top1_high"])] == pytest.approx(ends)
        assert float(row["macs"]) == pytest.approx(macs_of(budget - 0.001)) and row["runs"] == "3"
        assert float(row["share_of_dense_macs"]) == pytest.approx(macs_of(budget - 0.001) / DENSE_MACS)
        assert float(row["latency_ms"]) == pytest.approx(4.0 * (0.2 + 0.8 * (budget - 0.001)))
        assert float(row["speedup"]) == pytest.approx(4.0 / float(row["latency_ms"]))
        assert row["published_source"] == "cifar10" and f"{statistics.mean(values):.2f} ± " in out
    assert rows[1.0]["trained"] == "false" and rows[1.0]["difference"] == ""
    assert "BMVC 2024" in out and "batch 1, 2 threads of Test CPU; dense: 4.00 ms, eager" in out


def test_single_budget_runs_are_one_row_and_settings_tell_networks_apart(tmp_path, quick):
    for budget in (0.3, 0.7, 1.0):
        write_run(tmp_path / f"single-{budget}", (budget,))
    write_run(tmp_path / "none")
    write_run(tmp_path / "l1", gain=1.0, **{AWARE: "l1"})
    report(tmp_path, f"out={tmp_path}/made")
    rows = rows_of(tmp_path / "made")
    single = [r for r in rows if r["networks"] == "a network a budget"]
    assert [(float(r["budget"]), r["trained"]) for r in single] == [(0.3, "true"), (0.7, "true"), (1.0, "true")]
    multi = {(r["settings"], float(r["budget"])): r for r in rows if r["networks"] == "one for 0.3, 0.5, 0.7"}
    assert {s for s, _ in multi} == {"awareness.metric=l1", "awareness.metric=none"}
    assert float(multi["awareness.metric=l1", 0.5]["top1"]) == top1_of(0.5, gain=1.0)
    wide = next(x for x in (tmp_path / "made/report.md").read_text().splitlines() if "| a network a budget |" in x)
    assert f"| {top1_of(0.3):.2f} (−" in wide and wide.rstrip().endswith(f"| {top1_of(1.0):.2f} |")
    assert "latency" not in (tmp_path / "made/report.md").read_text()  # nobody measured it


def test_runs_that_start_from_other_runs_are_other_networks_and_from_one_a_seed_the_same(tmp_path, quick):
    for seed in (0, 1):
        start = f"elsewhere{seed}/dense-seed{seed}/checkpoints/best.pt"
        write_run(tmp_path / f"dense{seed}", **{SEED: seed, "model.start": start,
                                                "teacher.weights": "elsewhere/teacher-seed0/checkpoints/best.pt",
                                                "teacher.others": [f"cifar_resnet8:elsewhere{seed}/small.pt"]})
    write_run(tmp_path / "other", gain=1.0, **{"model.start": "elsewhere0/tuned/checkpoints/best.pt"})
    assert "is counted" not in report(tmp_path, f"out={tmp_path}/made")
    rows = [r for r in rows_of(tmp_path / "made") if float(r["budget"]) == 0.5]
    assert sorted(int(r["runs"]) for r in rows) == [1, 2]


def test_latex_is_balanced_booktabs_with_every_special_character_escaped(tmp_path, quick):
    write_run(tmp_path / "a", **{AWARE: "l1"})
    write_run(tmp_path / "b", **{AWARE: "l2", SEED: 1})
    report(tmp_path, f"out={tmp_path}/made")
    text = (tmp_path / "made/report.tex").read_text()
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 2
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    for body in re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, re.DOTALL):
        lines = [x for x in body[1].splitlines() if "&" in x]
        assert lines and all(len(re.findall(r"(?<!\\)&", x)) == len(body[0]) - 1 for x in lines)
    body = "\n".join(x for x in text.splitlines() if not x.startswith("%") and r"\label" not in x)
    assert not re.search(r"(?<!\\)[_%#]", body) and r"cifar\_resnet20" in body
    assert latex_text("50 % of a_b & {x}~\\ ± −1") == (
        r"50 \% of a\_b \& \{x\}\textasciitilde{}\textbackslash{} $\pm$ $-$1")


def test_published_numbers_apply_where_they_fit_and_can_be_named_or_left_out(tmp_path, quick):
    part = {"rows": [{"name": "b030", "budget": 0.3, "top1": 50.0, "conditional_fraction": 0.3, "macs": 1e6,
                      "images": 500}]}
    run_folder = write_run(tmp_path / "a", (0.3,), results=part)
    report(run_folder, f"out={tmp_path}/made")
    assert rows_of(tmp_path / "made")[0]["published_top1"] == ""  # 500 images are not CIFAR-10's test split
    (tmp_path / "mine.csv").write_text("model,0.3\nresnet20,60\n")
    report(run_folder, f"out={tmp_path}/made", f"published={tmp_path}/mine.csv")
    assert float(rows_of(tmp_path / "made")[0]["difference"]) == -10
    whole = write_run(tmp_path / "b")
    report(whole, f"out={tmp_path}/made", "published=none")
    assert {r["published_top1"] for r in rows_of(tmp_path / "made")} == {""}
    outcome = run(report_main, [str(whole), f"out={tmp_path}/made", "published=cifar1"])
    assert outcome.code == 1 and "did you mean 'cifar10'" in outcome.err


def test_top_5_is_shown_where_a_run_has_it_and_nowhere_else(tmp_path, quick):
    few = write_run(tmp_path / "few", (0.3,))
    rows = [{"name": "b030", "budget": 0.3, "top1": 61.25, "top5": 85.5, "conditional_fraction": 0.3, "macs": 1e6,
             "images": 500}]
    many = write_run(tmp_path / "many", (0.3,), results={"rows": rows, "classes": 100}, **{AWARE: "l1"})
    for folder, shown in ((few, False), (many, True)):
        report(folder, f"out={tmp_path}/made")
        texts = {kind: (tmp_path / f"made/report.{kind}").read_text() for kind in ("md", "tex", "html")}
        assert {kind: "top-5" in text for kind, text in texts.items()} == dict.fromkeys(texts, shown)
        assert rows_of(tmp_path / "made")[0].get("top5") == ("85.5" if shown else None)
    low, high = wilson(61.25, 500)  # of the one run's images
    assert f"| {low:.2f} to {high:.2f} |" in texts["md"] and "95 % by the number of its images" in texts["md"]
    assert "| 61.25 | 85.50 |" in texts["md"] and "61.25 & 85.50 &" in texts["tex"]
    assert all("85.50" in text for text in texts.values())


# --- what is missing -------------------------------------------------------------------------------

def test_missing_runs_are_shown_with_the_command_that_makes_them(tmp_path, quick):
    sweep = tmp_path / "sweep"
    for budget, seed in ((0.3, 0), (0.3, 1), (0.5, 0), (0.7, 0), (0.7, 1)):
        write_run(sweep / f"{budget}-{seed}", (budget,), **{SEED: seed, "model.args": {"shortcut": "B"},
                                                            "name": f"{budget}-{seed}"})
    write_run(sweep / "stopped", (0.9,), finished=False, **{"model.args": {"shortcut": "B"}})
    failed = write_run(sweep / "failed", finished=False, **{"recipe.lr": 9.0})
    failures.write(failed, UserError("training diverged in epoch 2"))
    out = report(sweep, f"out={tmp_path}/made", "budgets=[0.8]")
    text = (tmp_path / "made/report.md").read_text()
    assert "stopped after 1 of 3 epochs" in out and "bdsa-train 'budgets.targets=[0.9]'" in out
    assert "failed: training diverged in epoch 2" in out and "| failed |" in text
    assert "not finished" in text and "| missing |" in text
    holes = dict(re.findall(r"missing: cifar_resnet20 at ([\d.]+, seed \d).*?: no such run\n  (.*)", out))
    assert set(holes) == {"0.5, seed 1", "0.8, seed 0", "0.8, seed 1", "0.9, seed 1"}
    words = holes["0.5, seed 1"]
    composed = run(train_main, [*shlex.split(words)[1:], "--cfg", "job"])
    assert composed.code == 0, composed.err
    folder = tmp_path / "remade" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(composed.out)
    like = read_run(sweep / "0.3-1", []).settings
    assert read_run(folder, []).settings == {**like, "budgets.targets": [0.5]}


def test_a_command_keeps_values_that_a_shell_or_hydra_would_change(tmp_path):
    settings = read_run(write_run(tmp_path / "a", **{"data.root": "/my data/it's [1]", "tracker.group": "x",
                                                     "recipe.ema_decay": 0.99}), []).settings
    composed = run(train_main, [*shlex.split(command_of(settings))[1:], "--cfg", "job"])
    assert composed.code == 0, composed.err
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.yaml").write_text(composed.out)
    assert read_run(tmp_path / "b", []).settings == settings


# --- errors ----------------------------------------------------------------------------------------

def test_what_is_broken_is_said_and_the_rest_is_reported(tmp_path, quick):
    good = write_run(tmp_path / "runs/good")
    cut = write_run(tmp_path / "runs/cut", gain=-1.0, **{AWARE: "l2"})
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join([lines[0], "{broken\n", *lines[2:]]) + '{"kind": "tr')
    truncated = write_run(tmp_path / "runs/truncated", **{AWARE: "l1"})
    whole = (truncated / "results.json").read_text()
    (truncated / "results.json").write_text(whole[:len(whole) // 2])
    (write_run(tmp_path / "runs/wrong", **{SEED: 8}) / "results.json").write_text('{"rows": []}')
    (write_run(tmp_path / "runs/noconfig") / "config.yaml").write_text("{:")
    write_run(tmp_path / "runs/noenv", **{SEED: 5}).joinpath("environment.json").unlink()
    write_run(tmp_path / "runs/other/good", gain=2.0, **{SEED: 3})
    write_run(tmp_path / "runs/twin")
    write_run(tmp_path / "runs/digits", results={"data": "cluttered_digits"}, **{"data.name": "cluttered_digits"})
    (tmp_path / "empty").mkdir()
    out = report(tmp_path / "runs", tmp_path / "empty", tmp_path / "rns", good, f"out={tmp_path}/made")
    said = [x for x in out.splitlines() if x.startswith("problem: ")]
    for words in (["cut/metrics.jsonl", "line 2 cannot be read"],
                  ["cut/metrics.jsonl", f"line {len(lines) + 1} was cut"],
                  ["truncated/results.json", "cut off", "delete it", "bdsa-train"],
                  ["wrong/results.json", "'model' is missing"],
                  ["noconfig", "config.yaml cannot be read"], ["noenv", "environment.json", "there is none"],
                  ["2 runs are called good", "runs/good", "other/good"], ["twin", "settings and the seed of"],
                  ["2 different sets of images", "a table each"], ["empty holds no run"],
                  ["rns is no folder", "did you mean"], ["runs/good is given twice"]):
        assert any(all(w in line for w in words) for line in said), (words, said)
    assert len(said) == 12
    rows = rows_of(tmp_path / "made")
    assert {r["data"].split()[0] for r in rows} == {"folder", "cluttered_digits"}
    mine = next(r for r in rows if r["data"].startswith("folder") and r["budget"] == "0.5" and "=none" in r["settings"])
    assert float(mine["top1"]) == pytest.approx(statistics.mean(  # twin is not counted, the others are
        [top1_of(0.5), top1_of(0.5, 5), top1_of(0.5, 3, 2.0)]))
    assert float(next(r for r in rows if "=l2" in r["settings"])["top1"]) == top1_of(0.3, gain=-1.0)
    page = (tmp_path / "made/report.html").read_text()
    assert all(escape(x.removeprefix("problem: ")) in page for x in said)


@pytest.mark.parametrize("arguments, expected", [
    ([], "no folders"), (["{t}/nothing"], "nothing to report: {t}/nothing is no folder"),
    (["{t}/empty"], "nothing to report: {t}/empty holds no run"), (["{t}/a", "otu=x"], "did you mean 'out'"),
    (["{t}/a", "--out", "x"], "unknown option --out"), (["{t}/a", "budgets=[3]"], "budget 3"),
    (["{t}/a", "out={t}/a"], "was not made by bdsa-report")])
def test_a_wrong_command_line_is_one_line(tmp_path, quick, monkeypatch, arguments, expected):
    write_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    outcome = run(report_main, [a.format(t=tmp_path) for a in arguments])
    assert outcome.code == 1 and expected.format(t=tmp_path) in outcome.err, outcome.err
    assert outcome.err.startswith("error: ") and len(outcome.err.splitlines()) == 1
    assert set(tmp_path.rglob("*")) == before


def test_help_says_what_there_is():
    assert all(words in report("--help") for words in ("out=report", "published=auto", "report.tex"))


def test_unfinished_runs_alone_make_a_report_of_what_is_missing(tmp_path, quick):
    write_run(tmp_path / "a", finished=False)
    out = report(tmp_path / "a", f"out={tmp_path}/made")
    assert "missing: a (cifar_resnet20 for 0.3, 0.5, 0.7): stopped after 1 of 3 epochs" in out
    assert rows_of(tmp_path / "made") == [] and "stopped after" in (tmp_path / "made/report.html").read_text()
