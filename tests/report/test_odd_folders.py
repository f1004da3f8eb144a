"""Reports of folders that are damaged, odd or hostile: the others are shown, and what is shown does nothing."""
from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from run_folders import write_run

from bdsa.commands import report as report_command
from bdsa.commands.compare import main as compare
from bdsa.commands.targets import main as targets
from bdsa.report.networks import Network

EVIL = "<script>alert(1)</script>|=&'\""


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])  # they take longest


def change(path: Path, *keys: Any, to: Any) -> None:
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(content))


def in_config(text: str, to: str):
    return lambda f: (f / "config.yaml").write_text((f / "config.yaml").read_text().replace(text, to))


ODD = {
    "no results": lambda f: (f / "results.json").write_text("{"),
    "results of text": lambda f: change(f / "results.json", "rows", 0, "top1", to="high"),
    "top-1 is not a number": lambda f: change(f / "results.json", "rows", 0, "top1", to=float("nan")),
    "top-1 of 1000": lambda f: change(f / "results.json", "rows", 0, "top1", to=1000),
    "no images": lambda f: change(f / "results.json", "rows", 0, "images", to=0),
    "a budget of 30": lambda f: change(f / "results.json", "rows", 0, "budget", to=30),
    "a budget twice": lambda f: change(f / "results.json", "rows", 0, "budget", to=0.5),
    "rows that are none": lambda f: change(f / "results.json", "rows", to=[1]),
    "latency of text": lambda f: change(f / "results.json", "latency", to="fast"),
    "trained budgets of text": lambda f: change(f / "results.json", "trained_budgets", to=["a"]),
    "no environment": lambda f: (f / "environment.json").write_bytes(b"\xff\x00"),
    "environment of text": lambda f: change(f / "environment.json", "versions", to="new"),
    "a command of numbers": lambda f: change(f / "environment.json", "command", to=7),
    "no settings": lambda f: (f / "config.yaml").write_text("{"),
    "settings of bytes": lambda f: (f / "config.yaml").write_bytes(os.urandom(300)),
    "a seed of text": in_config("seed: 0", "seed: abc"),
    "a budget of many decimals": in_config("  - 0.3\n  - 0.5\n  - 0.7\n", "  - 0.3333333\n"),
    "epochs of text": in_config("epochs: 3", "epochs: many"),
    "data of text": in_config("data:\n", "data: x\nother:\n"),
    "metrics cut in mid-line": lambda f: (f / "metrics.jsonl").write_text((f / "metrics.jsonl").read_text()[:-9]),
    "metrics of text": lambda f: (f / "metrics.jsonl").write_text('{"kind": "eval", "epoch": 1, "budget": 0.3, '
                                                                  '"top1": "high"}\n'),
    "metrics of bytes": lambda f: (f / "metrics.jsonl").write_bytes(os.urandom(300)),
    "metrics is a folder": lambda f: ((f / "metrics.jsonl").unlink(), (f / "metrics.jsonl").mkdir()),
    "masks of text": lambda f: change(f / "pictures/masks.json", "labels", to=5),
    "masks elsewhere": lambda f: change(f / "pictures/masks.json", "budgets", "b030", "masks", to="https://x.y/z.png"),
    "densities of text": lambda f: change(f / "pictures/masks.json", "budgets", "b030", "densities", to=["x"]),
}


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_folder_keeps_no_report_from_being_made(tmp_path, odd):
    write_run(tmp_path / "runs/good", masks=True, **{"trainer.seed": 1})
    ODD[odd](write_run(tmp_path / "runs/odd", masks=True))
    out = tmp_path / "report"
    outcome = run(report_command.main, [str(tmp_path / "runs"), f"out={out}"])
    assert outcome.code == 0, outcome.err
    assert "cifar_resnet20" in (out / "report.csv").read_text() and (out / "report.html").exists()
    page = (out / "report.html").read_text()
    assert "https://x.y" not in page
    if not odd.startswith(("masks", "densities")):
        assert "problem: " in outcome.out or "no training curve" in outcome.out, outcome.out
    for main, words in ((compare, [str(tmp_path / "runs/good"), str(tmp_path / "runs/odd")]),
                        (targets, [str(tmp_path / "runs/odd"), f"out={tmp_path / 'targets.csv'}"])):
        outcome = run(main, words)
        assert "Traceback" not in outcome.err and outcome.err.count("\n") <= 1


def test_what_nobody_thought_of_is_left_out_too(tmp_path, monkeypatch):
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", **{"trainer.seed": seed, "model.name": f"resnet{18 + 16 * seed}"},
                  results={"model": f"resnet{18 + 16 * seed}"})
    real = Network.title.fget
    monkeypatch.setattr(Network, "title", property(lambda self: 1 / 0 if self.model == "resnet34" else real(self)))
    outcome = run(report_command.main, [str(tmp_path / "runs"), f"out={tmp_path / 'report'}"])
    assert outcome.code == 0, outcome.err
    assert "cannot be shown: ZeroDivisionError" in outcome.out and "resnet18" in outcome.out


def test_names_are_shown_as_they_are_and_do_nothing(tmp_path):
    evil = {"model.name": EVIL, "data.root": f"/data/{EVIL.replace('/', '')}", "name": f"={EVIL}",
            "recipe.optimizer": EVIL}
    write_run(tmp_path / "runs" / EVIL.replace("/", ""), masks=True, results={"model": EVIL, "data": f"={EVIL}"},
              **evil)
    (masks,) = (tmp_path / "runs").rglob("masks.json")
    change(masks, "labels", to=[EVIL] * 4)
    out = tmp_path / "report"
    outcome = run(report_command.main, [str(tmp_path / "runs"), f"out={out}", f"title='{EVIL[:25]}'"])
    assert outcome.code == 0, outcome.err
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "<script>" not in text and "&lt;script>" in text
    with (out / "report.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert rows and all(len(row) == len(head) for row in rows)
    assert not [c for row in rows for c in row if c.startswith(("=", "+", "@", "\t", "-<"))]
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table[:2]} == {table[0].count("|")}


def test_published_numbers_in_a_file_that_is_no_table_are_refused(tmp_path):
    write_run(tmp_path / "run")
    binary = tmp_path / "numbers.csv"
    binary.write_bytes(bytes(range(256)) * 4)
    outcome = run(report_command.main, [str(tmp_path / "run"), f"published={binary}", f"out={tmp_path / 'report'}"])
    assert outcome.code == 1 and "numbers.csv" in outcome.err and not (tmp_path / "report").exists()
