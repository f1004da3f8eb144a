"""bdsa-compare: which settings changed between two runs or sweeps, and what that did at each budget."""
from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from command_line import run
from run_folders import top1_of, write_run

from bdsa.commands.compare import main as compare_main

SEED, AWARE = "trainer.seed", "awareness.metric"


def compared(*arguments: object) -> str:
    outcome = run(compare_main, [str(a) for a in arguments])
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_two_runs_are_compared_setting_by_setting_and_budget_by_budget(tmp_path):
    one = write_run(tmp_path / "one", latency=4.0)
    other = write_run(tmp_path / "other", gain=1.5, latency=2.0, **{AWARE: "l2", "recipe.lr": 0.1})
    out = compared(one, other, f"out={tmp_path}/c.md")
    assert ["0.5", "latency", "ms", "2.40", "1.20", "-1.20", "-50.0", "%", "1"] in [x.split() for x in out.splitlines()]
    assert ["recipe.lr", "0.002", "0.1"] in [x.split() for x in out.splitlines()] and "|" not in out
    text = (tmp_path / "c.md").read_text()
    assert re.findall(r"^\| ([a-z.]+) \| (\S+) \| (\S+) \|$", text, re.MULTILINE)[1:] == [
        ("awareness.metric", "none", "l2"), ("recipe.lr", "0.002", "0.1")]
    for budget in (0.3, 0.5, 0.7):
        a = top1_of(budget)
        assert f"| {budget} | top-1 % | {a:.2f} | {a + 1.5:.2f} | +1.50 |" in text
    assert "| 0.5 | latency ms | 2.40 | 1.20 | -1.20 | -50.0 % | 1 |" in text
    assert "| 0.5 | conditional fraction | 0.499 | 0.499 | +0.000 | +0.0 % | 1 |" in text
    assert "run by run" not in (out + text).lower()


def test_runs_of_two_sweeps_are_matched_by_what_did_not_change(tmp_path):
    for seed, extra in ((0, 0.0), (1, 0.5), (2, 0.0)):
        for lr in (0.1, 0.2):
            settings = {SEED: seed, "recipe.lr": lr}
            write_run(tmp_path / "A" / f"{seed}-{lr}", **settings)
            if (seed, lr) != (2, 0.2):
                write_run(tmp_path / "B" / f"{seed}-{lr}", gain=1.0 + extra, **settings, **{AWARE: "l1"})
    out = compared(tmp_path / "A", tmp_path / "B", f"out={tmp_path}/c.md")
    text = (tmp_path / "c.md").read_text()
    assert "run by run" in out and "note: without a partner, in the first, at one budget or more: 2-0.2" in out
    assert "| awareness.metric | none | l1 |" in text and "| recipe.lr |" not in text and "| trainer.seed |" not in text
    gains = [1.0, 1.0, 1.5, 1.5, 1.0]
    assert f"+{statistics.mean(gains):.2f} ± {statistics.stdev(gains):.2f}" in text
    assert "without a partner, in the first, at one budget or more: 2-0.2" in text
    assert text.count("+1.50") == 2 * 4  # run by run: two pairs, three budgets and the dense path


def test_a_network_a_budget_stands_beside_one_for_all(tmp_path):
    for budget in (0.3, 0.7):
        write_run(tmp_path / "singles" / f"{budget}", (budget,), gain=1.0)
    compared(tmp_path / "singles", write_run(tmp_path / "multi"), f"out={tmp_path}/c.md")
    text = (tmp_path / "c.md").read_text()
    assert "| budgets.targets | [0.3], [0.7] | [0.3,0.5,0.7] |" in text
    assert "| 0.3 | top-1 %" in text and "| 0.7 | top-1 %" in text and "| 0.5 |" not in text
    assert "-1.00" in text and "without a partner, in the second" in text


def test_the_side_that_was_not_trained_for_a_budget_is_marked(tmp_path):
    dense = write_run(tmp_path / "dense", (1.0,), gain=1.0)
    multi = write_run(tmp_path / "multi")
    compared(dense, multi, f"out={tmp_path}/c.md")
    assert f"| 1 (dense) | top-1 % | {top1_of(1.0, gain=1.0):.2f} | {top1_of(1.0):.2f} (not trained) |" in (
        tmp_path / "c.md").read_text()
    rows = [line.split() for line in compared(multi, dense).splitlines()]
    assert ["1", "(dense)", "top-1", "%", f"{top1_of(1.0):.2f}", "(not", "trained)", f"{top1_of(1.0, gain=1.0):.2f}",
            "+1.00", "+1.1", "%", "1"] in rows


def test_top_5_is_compared_where_both_have_it(tmp_path):
    def with_top5(name, top5, **settings):
        row = {"name": "b030", "budget": 0.3, "top1": 60.0, "conditional_fraction": 0.3, "macs": 1e6, "images": 500}
        return write_run(tmp_path / name, (0.3,), results={"rows": [row | top5], "classes": 100}, **settings)
    one, other = with_top5("one", {"top5": 80.0}), with_top5("other", {"top5": 82.5}, **{AWARE: "l1"})
    assert re.search(r"0\.3 +top-5 % +80\.00 +82\.50 +\+2\.50", compared(one, other))
    assert "top-5" not in compared(one, with_top5("old", {}, **{AWARE: "l2"}))


@pytest.mark.parametrize("folders, expected", [
    (["one"], "1 folders are given"), (["one", "stopped"], "stopped has no finished run"),
    (["one", "nowhere"], "nowhere is no folder"), (["one", "far"], "no budget of a run in common")])
def test_what_cannot_be_compared_is_one_line(tmp_path, monkeypatch, folders, expected):
    monkeypatch.chdir(tmp_path)
    write_run(Path("one"), (0.3,), results={"rows": [{"name": "b030", "budget": 0.3, "top1": 1.0, "images": 10,
                                                      "conditional_fraction": 0.3, "macs": 1.0}]})
    write_run(Path("far"), (0.7,))
    write_run(Path("stopped"), finished=False)
    outcome = run(compare_main, folders)
    assert outcome.code == 1 and expected in outcome.err and len(outcome.err.splitlines()) == 1


def test_other_data_are_compared_with_a_warning(tmp_path):
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", **{"data.root": "/data/cifar100"}, results={"classes": 100})
    text = compared(one, other, f"out={tmp_path}/c.md") + (tmp_path / "c.md").read_text()
    assert "measured on other images" in text and "does not compare" in text
    assert "| data.root | cifar | cifar100 |" in text


def test_runs_that_differ_in_their_split_are_told_apart_by_it(tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", results={"split": "val"}, **{AWARE: "l1"})
    said = compared(one, other)
    assert "split test" in " ".join(said.split()) and "split val" in " ".join(said.split())
