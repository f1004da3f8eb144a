"""What bdsa-evaluate measured afterwards, in a report: budgets between, a cascade."""
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from command_line import run
from matplotlib.figure import Figure
from run_folders import macs_of, write_masks, write_run

from bdsa.commands import report as report_command
from bdsa.report import plots
from bdsa.report.pictures import run as run_pictures
from bdsa.runs.evaluations import between_rows


def row_at(budget: float, **more: object) -> dict:
    return {"name": f"b{round(1000 * budget):04d}", "budget": budget, "top1": 87.0 + 4 * budget,
            "conditional_fraction": budget, "macs": macs_of(budget), "images": 10_000, "latency_ms": budget, **more}


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A run of 0.3 and 0.7, its evaluation at 0.4 and 0.6, its cascade; others are of other images or weights."""
    folder = write_run(tmp_path / "runs/a", (0.3, 0.7))
    write_masks(folder / "pictures/masks.json", (0.3, 0.4, 0.6, 0.7))
    results = json.loads((folder / "results.json").read_text())
    results |= {"weights_digest": "those", "images_digest": "these"}
    (folder / "results.json").write_text(json.dumps(results))
    for name, more in (("best-folder-test", {}), ("other-test", {"split": "val"}), ("exact", {"per_image": True}),
                       ("last-folder-test", {"weights_digest": "others"}), ("int8", {"precision": "int8"}),
                       ("elsewhere", {"images_digest": "others"}),
                       ("best-folder-test-cascade", {"cascade": True})):
        (folder / "evaluations" / name).mkdir(parents=True)
        rows = [row_at(0.5)] if more else [row_at(0.4), row_at(0.6), results["rows"][0]]
        (folder / "evaluations" / name / "results.json").write_text(json.dumps({**results, **more, "rows": rows}))
    return folder


def test_the_page_has_the_points_between_and_a_slider_with_their_stops(
        evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(plots, "save", lambda figure, path, dpi: figures.setdefault(path.stem, figure))
    outcome = run(report_command.main, [str(evaluated), f"out={tmp_path}/made"])
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "made/report.html").read_text()
    data = json.loads(re.search(r"id='data'>(.*?)</script>", page)[1])
    network = data["tables"][0]["networks"][0]
    assert [p["budget"] for p in network["between"]] == [0.4, 0.6] and all(p["small"] for p in network["between"])
    assert [(p["budget"], p["top1"], p["bar"]) for p in network["cascade"]] == [(0.5, row_at(0.5)["top1"], None)]
    assert "as a cascade" in network["cascade"][0]["tip"]
    assert [p["budget"] for p in network["points"]] == [0.3, 0.7], "columns of tables are those that were trained"
    assert "value='budget'" in page
    stops = data["viewers"][0]["stops"]
    assert [(s["budget"], s["trained"]) for s in stops] == [
        (0.3, True), (0.4, False), (0.6, False), (0.7, True), (1.0, False)]
    for name, costs in (("accuracy_budget", [0.3, 0.4, 0.6, 0.7]), ("accuracy_macs", None)):
        line = figures[name].axes[0].lines[0]
        assert len(line.get_xdata()) == 4 and (costs is None or list(line.get_xdata()) == costs)
        dotted = [list(line.get_ydata()) for line in figures[name].axes[0].lines if line.get_linestyle() == ":"]
        assert [row_at(0.5)["top1"]] in dotted, "the cascade has its own line"
        assert any(text.get_text() == "the same as a cascade" for text in figures[name].legends[0].get_texts())


def test_without_an_evaluation_between_nothing_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])
    folder = write_run(tmp_path / "runs/a", (0.3, 0.7))
    assert run(report_command.main, [str(folder), f"out={tmp_path}/made"]).code == 0
    page = (tmp_path / "made/report.html").read_text()
    assert '"between":[]' in page and "value='budget'" not in page


@pytest.mark.parametrize("key", ["macs", "budget", "latency_ms"])
def test_a_picture_marks_the_trained_budgets_on_the_line(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(run_pictures, "save", lambda figure, path: drawn.append(figure))
    rows = [row_at(b) for b in (0.3, 0.4, 0.6, 0.7)] + [row_at(1.0, top1=85.0)]
    run_pictures.accuracy_cost_picture(rows, "x.png", trained=(0.3, 0.7), key=key)
    axes = drawn[0].axes[0]
    assert list(axes.lines[0].get_xdata()) == [row[key] for row in rows[:4]], "the dense path was not trained"
    assert len(axes.texts) == 3, "trained budgets and the dense one say what they are"


@pytest.mark.parametrize("apart", [{"threads": 4}, {"batch_size": 8}, {"processor": "another"}, {"execution": "masked"},
                                   {"precision": "bfloat16"}, {}])
def test_latencies_of_other_conditions_join_no_trainings(tmp_path: Path, apart: dict) -> None:
    folder = write_run(tmp_path / "a", (0.3, 0.7), latency=4.0)
    results = json.loads((folder / "results.json").read_text())
    (folder / "evaluations/best-folder-test").mkdir(parents=True)
    about = {**results["latency"], "execution": "auto", **apart}
    (folder / "evaluations/best-folder-test/results.json").write_text(json.dumps({
        **results, "latency": about, "rows": [row_at(0.4, speedup=2.0)]}))
    (row,) = between_rows(folder, results)
    assert row["top1"] == row_at(0.4)["top1"] and ("latency_ms" in row, "speedup" in row) == (not apart, not apart)


def test_latencies_of_a_trainings_conditions_outlive_a_later_evaluation_in_others(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", (0.3, 0.7), latency=4.0)
    results = json.loads((folder / "results.json").read_text())
    for number, threads in enumerate((results["latency"]["threads"], 64)):
        path = folder / f"evaluations/best-folder-test-{number}/results.json"
        path.parent.mkdir(parents=True)
        about = {**results["latency"], "execution": "auto", "threads": threads}
        path.write_text(json.dumps({**results, "latency": about, "rows": [row_at(0.4, speedup=2.0 + number)]}))
        os.utime(path, (number, number))
    (row,) = between_rows(folder, results)
    assert row["speedup"] == 2.0
