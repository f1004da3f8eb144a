"""Ponder maps are counts; pictures and tables are made from what a run leaves on disk."""
from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from matplotlib.image import imread
from rich.table import Table

from bdsa.report.pictures.run import accuracy_cost_picture, curves_picture, density_picture, mask_picture, ponder_map
from bdsa.report.results_table import print_table, results_table
from bdsa.report.terminal import human_count

RESULTS = [{"name": name, "budget": budget, "top1": top1, "conditional_fraction": budget, "macs": 4.12e7 * budget,
            "images": 10_000} for name, budget, top1 in (("b070", 0.7, 91.2), ("b030", 0.3, 88.6), ("b100", 1.0, None))]


def masks(batch, sides, density=0.5):
    generator = torch.Generator().manual_seed(len(sides))
    return [torch.rand(batch, 1, side, side, generator=generator) < density for side in sides]


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


@pytest.mark.parametrize("side", [32, 224])
def test_a_mask_picture_has_a_row_an_image_and_two_columns_a_budget(tmp_path, side):
    images = torch.rand(3, 3, side, side)
    usages = {name: masks(3, [side // 4, side // 8], density) for name, density in (("b030", 0.3), ("b070", 0.7))}
    words = dict(names=["a.png", "a_very_long_name_of_a_file_without_spaces.JPEG", "c.png"], labels=["cat"] * 3,
                 predictions={"b030": ["cat", "dog", "a dog with a long name"], "b070": torch.tensor([1, 2, 3])})
    for count in (1, 3):
        mask_picture(images, usages, tmp_path / "deep" / f"{count}.png", **words, max_images=count)
    one, three = (imread(tmp_path / "deep" / f"{count}.png") for count in (1, 3))
    assert three.shape[0] > 2 * one.shape[0] and three.shape[1] > 5 * 200
    assert images.min() >= 0 and usages["b030"][0].dtype == torch.bool
    with pytest.raises(ValueError, match="at least one budget"):
        mask_picture(images, {}, tmp_path / "none.png", names=words["names"])
    mask_picture(images, {"b030": usages["b030"]}, tmp_path / "narrow.png", names=words["names"])
    assert imread(tmp_path / "narrow.png").shape[1] < three.shape[1] - 2 * 200


def test_pictures_of_a_run_are_written_also_for_one_that_has_no_rows_yet(tmp_path):
    rows = [{"kind": "train", "epoch": epoch, "loss": {"task": 1.0, "budget": None}} for epoch in range(3)]
    rows += [{"kind": "eval", "epoch": epoch, "name": f"b{budget:03d}", "budget": budget / 100, "top1": 50.0,
              "conditional_fraction": 0.4} for epoch in range(3) for budget in range(10, 100, 10)]
    curves_picture(rows, tmp_path / "curves.png")
    curves_picture([], tmp_path / "empty.png")
    accuracy_cost_picture(RESULTS, tmp_path / "cost.png")
    density_picture({"b030": [0.1, 0.5, 0.9], "b070": [0.7, 0.7, 0.7]}, tmp_path / "density.png")
    assert all(imread(tmp_path / f"{name}.png").std() > 0 for name in ("curves", "empty", "cost", "density"))


def test_pictures_leave_the_state_of_pyplot_alone():
    code = "import bdsa.report.pictures.run, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("value, text", [(41_234_567, "41.2 M"), (1.8141e9, "1.81 G"), (999_960, "1.00 M"),
                                         (124e6, "124 M"), (12, "12"), (None, "-"), (float("nan"), "-")])
def test_counts_in_human_units(value, text):
    assert human_count(value) == text


def test_a_table_is_printed_whole_and_plain_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(results_table(RESULTS, dense_macs=4.12e7, parameters=272_474), Table)
    out = io.StringIO()
    print_table(RESULTS, dense_macs=4.12e7, parameters=272_474, file=out)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["0.3", "b030", "88.60", "0.300", "12.4", "M", "30.0", "%", "10,000"] in lines
    assert [line[1] for line in lines if line and line[-1] == "10,000"] == ["b030", "b070", "b100"]
    assert "\x1b" not in out.getvalue() and "…" not in out.getvalue()
    assert "272 k parameters, 41.2 M MACs dense" in out.getvalue()
    assert len([line for line in lines if "b100" in line and "-" in line]) == 1
