"""What bdsa-report draws: plots for print, and the page with its data."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import TINY, run
from PIL import Image
from run_folders import top1_of, write_masks, write_run

from bdsa.commands import report as report_command
from bdsa.commands.entry_points import train as train_main
from bdsa.report import plots
from bdsa.report.intervals import wilson

SEED, AWARE = "trainer.seed", "awareness.metric"


@pytest.fixture
def quick(monkeypatch):
    """Without the plots, which take longest."""
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])


def report(*arguments: object) -> str:
    outcome = run(report_command.main, [str(a) for a in arguments])
    assert outcome.code == 0, outcome.err
    return outcome.out


def page_data(folder: Path) -> dict:
    return json.loads(re.search(r"id='data'>(.*?)</script>", (folder / "report.html").read_text())[1])


@pytest.mark.slow
def test_plots_are_drawn_for_what_was_measured_and_old_ones_go(tmp_path):
    for name, settings in (("a", {}), ("b", {SEED: 1}), ("c", {AWARE: "l1"})):
        write_run(tmp_path / "runs" / name, (0.3, 1.0), masks=True, latency=4.0, **settings)
    out = report(tmp_path / "runs", f"out={tmp_path}/made")
    folder = tmp_path / "made/plots"
    names = {"accuracy_macs", "accuracy_latency", "training", "density"}
    assert {p.name for p in folder.iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "pdf")}
    for name in names:
        pdf = (folder / f"{name}.pdf").read_bytes()
        assert name in out and pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.info["dpi"][0] == pytest.approx(300, abs=1) and picture.width > 1500
            assert len(set(picture.convert("RGB").resize((80, 60)).getdata())) > 20
    (folder / "mine.txt").write_text("kept")
    report(write_run(tmp_path / "plain"), f"out={tmp_path}/made")
    assert {p.name for p in folder.iterdir()} == {"accuracy_macs.png", "accuracy_macs.pdf", "training.png",
                                                 "training.pdf", "mine.txt"}


def figures_of(monkeypatch, folder: Path, *runs: Path) -> dict:
    """Name of a plot -> its figure, as it is saved."""
    found = {}
    monkeypatch.setattr(plots, "save", lambda figure, path, dpi: found.setdefault(path.stem, figure))
    report(*runs, f"out={folder}")
    for figure in found.values():
        figure.canvas.draw()
    return found


def test_the_axis_of_top_1_holds_every_bar_and_keeps_chance_small(tmp_path, monkeypatch):
    run_folder = write_run(tmp_path / "a", (0.3, 0.7), latency=4.0)
    figures = figures_of(monkeypatch, tmp_path / "made", run_folder)
    published = [p[2] for p in page_data(tmp_path / "made")["tables"][0]["published"][0]["points"]]
    for name, others in (("accuracy_macs", published), ("accuracy_latency", [])):
        (axes,) = figures[name].axes
        low, high = axes.get_ylim()
        bars = [wilson(top1_of(budget), 10_000) for budget in (0.3, 0.7)]
        drawn = [tuple(segment[:, 1]) for lines in axes.collections for segment in lines.get_segments()]
        assert sorted(drawn) == [pytest.approx(bar) for bar in sorted(bars)]
        assert low < min(*(b[0] for b in bars), *others) and high > max(*(b[1] for b in bars), *others)
        assert high - low >= 5 and {"0.3", "0.7"} <= {text.get_text() for text in axes.texts}
    ticks = [label.get_text() for label in figures["accuracy_macs"].axes[0].get_xticklabels()]
    assert len(ticks) > 3 and {tick.partition(" ")[2] for tick in ticks if tick != "0"} == {"M"}
    (table,) = page_data(tmp_path / "made")["tables"]
    for cost, others in (("macs", published), ("latency", [])):
        low, high = table["top1"][cost]
        bars = [end for network in table["networks"] for point in network["points"] for end in point["bar"]]
        assert low < min(bars + others) and high > max(bars + others)


def test_the_bar_of_several_seeds_is_their_deviation(tmp_path, quick):
    for seed in (0, 2):
        write_run(tmp_path / "runs" / str(seed), (0.5,), **{SEED: seed})
    report(tmp_path / "runs", f"out={tmp_path}/made")
    (point,) = page_data(tmp_path / "made")["tables"][0]["networks"][0]["points"]
    middle, deviation = top1_of(0.5, 1), 0.3 * 2 ** 0.5
    assert point["bar"] == pytest.approx([middle - deviation, middle + deviation], abs=1e-3)
    assert "2 seeds" in point["tip"] and "Bars: deviation over seeds." in (tmp_path / "made/report.html").read_text()


def test_the_density_plot_has_a_tick_a_block_from_1(tmp_path, monkeypatch):
    figures = figures_of(monkeypatch, tmp_path / "made", write_run(tmp_path / "a", masks=True))
    axes = figures["density"].axes[0]
    assert list(axes.get_xticks()) == [1, 2, 3] and [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in axes.lines)


@pytest.mark.slow
def test_a_page_of_two_hundred_runs_stays_small_and_names_no_other_host(tmp_path, quick):
    first = write_run(tmp_path / "runs/r0", epochs=100, masks=True)
    text = {p: p.read_text() for p in first.rglob("*") if p.is_file()}
    for seed in range(1, 200):
        for path, content in text.items():
            copy = tmp_path / f"runs/r{seed}" / path.relative_to(first)
            copy.parent.mkdir(parents=True, exist_ok=True)
            content = content.replace("seed: 0", f"seed: {seed % 20}").replace("lr: 0.002", f"lr: 0.{seed // 20 + 1}")
            copy.write_text(content)
    report(tmp_path / "runs", f"out={tmp_path}/made")
    page = (tmp_path / "made/report.html").read_text()
    assert page.count("<details") == 200 and len(page) < 3e6
    data = json.loads(re.search(r"id='data'>(.*?)</script>", page)[1])
    assert len(data["images"]) == 1 and len(data["viewers"]) > 5  # the same images are there once
    assert all(len(c["epoch"]) <= 60 and c["epoch"][-1] == 100 for r in data["runs"] for c in r["curves"].values())
    hosts = set(re.findall(r"https?://[\w.]+", page))
    assert hosts <= {"http://www.w3.org"} and "default-src 'none'" in page and " src=" not in page


def test_masks_that_were_visualised_later_are_found(tmp_path, quick):
    folder = write_run(tmp_path / "a")
    report(folder, f"out={tmp_path}/made")
    assert "bdsa-visualize" in (tmp_path / "made/report.html").read_text()
    write_masks(folder / "visualizations/best-test/masks.json", (0.3, 0.7))
    report(folder, f"out={tmp_path}/made")
    data = page_data(tmp_path / "made")
    assert [s["budget"] for s in data["viewers"][0]["stops"]] == [0.3, 0.7, 1.0]
    assert data["runs"][0]["densities"]["0.3"] == pytest.approx([0.3125, 0.3125, 0.375], abs=1e-3)


@pytest.mark.slow
def test_a_real_run_can_be_reported(tmp_path, quick):
    outcome = run(train_main, [*TINY, "recipe.epochs=1", "budgets.targets=[0.5]", "trainer.pictures=2",
                               f"out={tmp_path}", "name=real"])
    assert outcome.code == 0, outcome.err
    report(tmp_path / "real", f"out={tmp_path}/made")
    results = json.loads((tmp_path / "real/results.json").read_text())
    (network,) = page_data(tmp_path / "made")["tables"][0]["networks"]
    assert network["points"][0]["top1"] == results["rows"][0]["top1"]
    kept = json.loads((tmp_path / "real/pictures/masks.json").read_text())
    assert kept["count"] == 2 and kept["measured"] == 50 and len(kept["budgets"]["b050"]["densities"]) == 3
    assert "data:image/png" in (tmp_path / "made/report.html").read_text()
