"""Ponder maps are counts; pictures and tables are made from what a run leaves on disk."""
from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from rich.table import Table

from bdsa.budgets import Budget
from bdsa.report.intervals import wilson
from bdsa.report.pictures import masks as masks_module
from bdsa.report.pictures import run as run_module
from bdsa.report.pictures.animation import animation
from bdsa.report.pictures.masks import MaskColumn, mask_picture
from bdsa.report.pictures.ponder import overlay, ponder_map
from bdsa.report.pictures.run import accuracy_cost_picture, curves_picture, density_picture
from bdsa.report.results_table import print_table, results_table
from bdsa.report.terminal import human_count

RESULTS = [{"name": name, "budget": budget, "top1": top1, "conditional_fraction": budget, "macs": 4.12e7 * budget,
            "images": 10_000} for name, budget, top1 in (("b070", 0.7, 91.2), ("b030", 0.3, 88.6), ("b100", 1.0, None))]


def masks(batch, sides, density=0.5):
    generator = torch.Generator().manual_seed(len(sides))
    return [torch.rand(batch, 1, side, side, generator=generator) < density for side in sides]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that pictures save, in order; nothing is written."""
    figures = []
    for module in (masks_module, run_module):
        monkeypatch.setattr(module, "save", lambda figure, path, **how: (figure.canvas.draw(), figures.append(figure)))
    return figures


# --- ponder maps -----------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [(8, 8), (32, 32), (16, 24)])
def test_a_ponder_map_is_a_count_and_leaves_the_masks_alone(size):
    given = masks(3, [8, 8, 4, 2])
    copies = [mask.clone() for mask in given]
    ponder = ponder_map(given, size)
    assert ponder.shape == (3, *size) and ponder.dtype == torch.float32
    for image in range(3):
        for y in range(size[0]):
            for x in range(size[1]):
                count = sum(bool(mask[image, 0, y * mask.shape[2] // size[0], x * mask.shape[3] // size[1]])
                            for mask in given)
                assert ponder[image, y, x] == count
    assert all(torch.equal(mask, copy) and mask.dtype == torch.bool for mask, copy in zip(given, copies))


def test_a_ponder_map_of_float_masks_is_a_new_tensor_without_a_gradient():
    only = torch.ones(2, 1, 4, 4, requires_grad=True)  # float and of full size: nothing needs a copy
    ponder = ponder_map([only], (4, 4))
    ponder += 1
    assert not ponder.requires_grad and torch.equal(only, torch.ones_like(only))
    with pytest.raises(ValueError, match="at least one"):
        ponder_map([], (4, 4))


def test_an_overlay_is_grey_where_nothing_ran_and_coloured_by_the_count_elsewhere():
    shown = overlay(torch.rand(3, 1, 1).expand(3, 1, 4), np.array([[0.0, 1.0, 2.0, 3.0]]), 3)[0]
    assert np.ptp(shown[0]) == 0 and all(np.ptp(colour) > 0.1 for colour in shown[1:])
    assert min(np.abs(a - b).sum() for a, b in zip(shown[1:], shown[2:])) > 0.2  # one image below, another count


# --- sheets of masks -------------------------------------------------------------------------------

def columns_of(images, sides=(8, 4)):
    return [MaskColumn(Budget(b), masks(images, sides, b), [b + 0.1 * i for i in range(images)],
                       ["cat", "dog", "a dog with a long name"][:images]) for b in (0.3, 0.7)]


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 224])
def test_a_mask_picture_has_a_row_an_image_and_a_column_a_budget(tmp_path, side):
    images, columns = torch.rand(3, 3, side, side), columns_of(3, (side // 4, side // 8))
    words = dict(names=["a.png", "a_very_long_name_of_a_file_without_spaces.JPEG", "$c$.png"], labels=["cat"] * 3)
    for count in (1, 3):
        mask_picture(images, columns, tmp_path / "deep" / f"{count}.png", **words, max_images=count)
    one, three = (imread(tmp_path / "deep" / f"{count}.png") for count in (1, 3))
    assert three.shape[0] > 2 * one.shape[0] and three.shape[1] > 3 * 200
    mask_picture(images, columns[:1], tmp_path / "narrow.png", names=words["names"], pdf=False)
    assert imread(tmp_path / "narrow.png").shape[1] < three.shape[1] - 200
    pdf = (tmp_path / "deep/3.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and len(pdf) < 2e6
    assert not (tmp_path / "narrow.pdf").exists()


def test_a_column_is_headed_by_budget_and_fraction_of_the_shown_images(drawn):
    mask_picture(torch.rand(3, 3, 32, 32), columns_of(3), "none.png", names=["a", "b", "c"],
                 labels=["cat", "cat", None], max_images=2)
    grid = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title() for axes in grid[:3]][1:] == ["0.3 · fraction 0.35", "0.7 · fraction 0.75"]
    assert [axes.get_xlabel() for axes in grid] == ["", "✓ cat", "✓ cat", "", "✗ dog", "✗ dog"]
    assert not any(word in axes.get_title() for axes in grid for word in ("b030", "%"))
    with pytest.raises(ValueError, match="at least one budget"):
        mask_picture(torch.rand(1, 3, 8, 8), [], "none.png", names=["a"])


def test_an_animation_has_a_frame_a_budget_that_shows_its_masks(tmp_path):
    nothing, everything = ([torch.full((5, 1, side, side), ran) for side in (8, 4)] for ran in (False, True))
    columns = [MaskColumn(Budget(0.3), nothing, [0.0] * 5, ["cat"] * 5),
               MaskColumn(Budget(0.5), masks(5, [8, 4]), [0.5] * 5, ["cat"] * 5),
               MaskColumn(Budget(0.7), everything, [1.0] * 5, ["dog"] * 5)]
    animation(torch.rand(5, 3, 32, 32), columns, tmp_path / "deep/a.gif", labels=["cat", "dog", None, "cat", "cat"])
    with Image.open(tmp_path / "deep/a.gif") as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0 and gif.info["duration"] > 500
        frames = []
        for number in range(3):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    assert len({frame.shape for frame in frames}) == 1
    coloured = [(np.ptp(frame[60:220, 30:200], axis=-1) > 40).mean() for frame in frames]  # in the first image
    assert coloured[0] < 0.02 < 0.3 < coloured[1] and coloured[2] > 0.95
    headings = [frame[:55, :400] for frame in frames]
    assert (headings[0] != headings[1]).any() and (headings[1] != headings[2]).any()


# --- plots of a run --------------------------------------------------------------------------------

@pytest.mark.slow
def test_pictures_of_a_run_are_written_also_for_one_that_has_no_rows_yet(tmp_path):
    rows = [{"kind": "train", "epoch": epoch, "loss": {"task": 1.0, "budget": None}} for epoch in range(3)]
    rows += [{"kind": "eval", "epoch": epoch, "name": f"b{budget:03d}", "budget": budget / 100, "top1": 50.0,
              "conditional_fraction": 0.4} for epoch in range(3) for budget in range(10, 100, 10)]
    curves_picture(rows, tmp_path / "curves.png")
    curves_picture([], tmp_path / "empty.png")
    accuracy_cost_picture(RESULTS, tmp_path / "cost.png")
    density_picture({0.3: [0.1, 0.5, 0.9], 0.7: [0.7, 0.7, 0.7]}, tmp_path / "density.png")
    assert all(imread(tmp_path / f"{name}.png").std() > 0 for name in ("curves", "empty", "cost", "density"))
    assert all((tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF") for name in ("curves", "cost", "density"))


def test_accuracy_over_cost_shows_intervals_and_budgets_by_their_value(drawn):
    top1 = {0.3: 97.3, 0.5: 97.35, 0.7: 97.45, 1.0: 91.0}
    rows = [{"budget": b, "top1": t, "conditional_fraction": b, "macs": 4.1e7 * b, "images": 2000}
            for b, t in top1.items()]
    accuracy_cost_picture(rows, "none.png", trained=[0.3, 0.5, 0.7])
    (axes,) = drawn[0].axes
    bars = [segment[:, 1] for lines in axes.collections for segment in lines.get_segments()]
    assert [list(bar) for bar in bars] == [pytest.approx(wilson(t, 2000)) for t in top1.values()]
    low, high = axes.get_ylim()
    assert low < min(map(min, bars)) and max(map(max, bars)) <= high and high - low > 4 * np.ptp(bars[0])
    assert [text.get_text().splitlines()[0] for text in axes.texts] == ["0.3", "0.5", "0.7", "1 (dense)"]
    assert "not trained" in axes.texts[-1].get_text() and len(axes.lines[0].get_xdata()) == 3
    renderer = drawn[0].canvas.get_renderer()
    places = [text.get_window_extent(renderer) for text in axes.texts]
    assert all(place.y0 > axes.bbox.y0 for place in places)  # none lies over the axis
    assert not any(a.overlaps(b) for i, a in enumerate(places) for b in places[:i])
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert len(ticks) > 3 and {tick.partition(" ")[2] for tick in ticks if tick != "0"} == {"M"}


def test_the_density_of_blocks_is_drawn_over_whole_numbers_from_1(drawn):
    for blocks in (3, 36, 54):
        density_picture({0.3: [0.2] * blocks, 0.7: [0.8] * blocks}, "none.png", stages=["one"] + ["two"] * (blocks - 1))
        axes = drawn[-1].axes[0]
        ticks = {*axes.get_xticks(), *axes.get_xticks(minor=True)}
        assert ticks == set(range(1, blocks + 1)) and list(axes.lines[0].get_xdata()) == list(range(1, blocks + 1))
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["budget 0.3", "budget 0.7"]
        assert {"one", "two"} == {text.get_text() for text in axes.texts}
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert not any(a.overlaps(b) for a, b in zip(labels, labels[1:]))


def test_pictures_leave_the_state_of_pyplot_alone():
    code = "import bdsa.report.pictures.run, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the table -------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, text", [(41_234_567, "41.2 M"), (1.8141e9, "1.81 G"), (999_960, "1.00 M"),
                                         (124e6, "124 M"), (12, "12"), (None, "-"), (float("nan"), "-")])
def test_counts_in_human_units(value, text):
    assert human_count(value) == text


def printed(rows) -> str:
    out = io.StringIO()
    print_table(rows, dense_macs=4.12e7, parameters=272_474, file=out)
    return out.getvalue()


def test_a_table_is_printed_whole_and_plain_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(results_table(RESULTS, dense_macs=4.12e7, parameters=272_474), Table)
    out = printed(RESULTS)
    lines = [line.split() for line in out.splitlines()]
    assert ["0.3", "b030", "88.60", "0.300", "12.4", "M", "30.0", "%", "10,000"] in lines
    assert [line[1] for line in lines if line and line[-1] == "10,000"] == ["b030", "b070", "b100"]
    assert "\x1b" not in out and "…" not in out
    assert "272 k parameters, 41.2 M MACs dense" in out
    assert len([line for line in lines if "b100" in line and "-" in line]) == 1


def test_top_5_has_a_column_where_it_was_measured():
    assert "top-5" not in printed(RESULTS)
    lines = [line.split() for line in printed([{**RESULTS[0], "top5": 99.125}, RESULTS[1]]).splitlines()]
    assert ["0.7", "b070", "91.20", "99.12", "0.700", "28.8", "M", "70.0", "%", "10,000"] in lines
    assert ["0.3", "b030", "88.60", "-", "0.300", "12.4", "M", "30.0", "%", "10,000"] in lines
