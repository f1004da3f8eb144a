"""A part of the training images that chooses the epoch: which images, what trains on the others, what is reported."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import TINY, run
from PIL import Image
from small_data import check_one_line, small, write_folder
from torch.utils.data import Dataset
from torchvision import datasets as tv_datasets

from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.data import registry
from bdsa.data.cluttered_digits import ClutteredDigits
from bdsa.data.datasets import DataSpec, Sources, create_splits, get_split
from bdsa.data.held_out import hold_out, shares
from bdsa.runs.metrics import MetricsFile
from bdsa.runs.tracker import NoTracker


def rows_of(splits) -> tuple[list[int], list[int]]:
    """Rows of the training source that are trained on, and those held out."""
    return splits.train.source.rows, splits.held_out.source.rows


# --- which images ----------------------------------------------------------------------------------

@pytest.mark.parametrize("size, count", [(10, 10), (0.25, 10), (0.5, 20), (13, 13)])
def test_every_class_gives_its_share_and_nothing_is_in_both_parts(size, count):
    splits = create_splits(small(held_out=size))
    left, held = rows_of(splits)
    assert len(held) == len(splits.held_out) == count and sorted(left + held) == list(range(40))
    per_class = [sum(row % 10 == c for row in held) for c in range(10)]
    assert max(per_class) - min(per_class) <= 1 and (count % 10 or len(set(per_class)) == 1)
    assert splits.train_eval.source is splits.train.source  # thresholds are not calibrated on held-out images


def test_the_seed_of_the_data_chooses_the_part_and_nothing_else_does():
    part = rows_of(create_splits(small(held_out=20)))
    torch.rand(5)
    assert rows_of(create_splits(small(held_out=20, augmentation="none", val_images=7))) == part
    assert rows_of(create_splits(small(held_out=20, seed=1))) != part
    assert set(rows_of(create_splits(small(held_out=10)))[1]) < set(part[1])


def test_held_out_images_are_seen_as_in_evaluation():
    splits = create_splits(small(held_out=10, augmentation="crop_flip"))
    plain = create_splits(small(augmentation="none")).train
    for i, row in enumerate(rows_of(splits)[1]):
        image, label = splits.held_out[i]
        assert torch.equal(image, plain[row][0]) and label == plain[row][1]


@pytest.mark.parametrize("sizes, count, right", [
    ([10, 10], 10, [5, 5]), ([90, 10], 10, [9, 1]), ([997, 3], 10, [9, 1]), ([2, 2, 2], 3, [1, 1, 1]),
    ([2, 96], 90, [1, 89]), ([50, 30, 21], 10, [5, 3, 2]), ([3, 3, 1000], 3, [1, 1, 1]), ([2, 2, 8], 9, [1, 1, 7])])
def test_uneven_classes_are_shared_out_in_proportion(sizes, count, right):
    assert shares(sizes, count, ["a", "b", "c"]) == right


# --- every data set --------------------------------------------------------------------------------

def test_digits_are_not_drawn_to_be_split():
    source = ClutteredDigits("train", 32, images=100)
    left, held = hold_out(source, 0.2, 0, ClutteredDigits.classes)
    assert "_drawn" not in vars(source) and (len(left), len(held)) == (80, 20)
    held.draw()
    assert "_drawn" in vars(source) and [label for _, label in held] == [row % 10 for row in held.rows]


def test_a_folder_is_split_without_reading_images(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets", {"train": {"cat": 8, "dog": 4}, "val": {"cat": 1, "dog": 1}})
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"not an image")
    splits = create_splits(DataSpec("folder", str(root), held_out=3))
    assert [splits.train.source.source.targets[row] for row in rows_of(splits)[1]] == [0, 0, 1]
    assert (splits.reported, splits.validated_on, splits.notes) == ("val", "held_out", [])
    assert splits.choice.endswith("3 images of held_out; the results are those of val")


def test_cifar_is_split_by_its_labels(monkeypatch, tmp_path):
    class FakeCifar(Dataset):
        classes, base_folder = ["a", "b"], "fake"

        def __init__(self, root, train, download=False):
            self.targets = [i % 2 for i in range(20 if train else 6)]

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, index):
            raise AssertionError("an image was read")

    monkeypatch.setattr(tv_datasets, "CIFAR10", FakeCifar)
    splits = create_splits(DataSpec("cifar10", str(tmp_path), held_out=0.2))
    assert len(splits.held_out) == 4 and len(splits.train) == 16 and splits.validation is splits.held_out
    without = create_splits(DataSpec("cifar10", str(tmp_path)))
    assert (without.validated_on, without.reported) == ("test", "test") and "reported too" in without.choice


def test_a_data_set_that_does_not_list_its_labels_is_named(monkeypatch):
    pictures = [(Image.new("RGB", (8, 8)), 0)] * 4
    monkeypatch.setitem(registry._ENTRIES, "plain", registry.Entry(
        lambda spec: Sources(pictures, pictures, None, ["a"]), 8, ()))
    check_one_line("give its training source `targets`", lambda: create_splits(DataSpec("plain", held_out=1)))


# --- errors ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, message", [
    (0, r"data.held_out=0 is neither"), (-3, "data.held_out=-3 is neither"), (1.5, "data.held_out=1.5 is neither"),
    (float("nan"), "is neither a fraction"), (40, "40 of 40 training images: nothing would be left"),
    (4000, "4,000 of 40"), (9, "9 of 40 .*a class would be left empty; hold out 10 to 30"),
    (0.01, "0 of 40 .*left empty"), (31, "31 of 40 .*hold out 10 to 30")])
def test_a_part_that_cannot_be_is_explained(size, message):
    check_one_line(message, lambda: create_splits(small(held_out=size)))


def test_a_class_of_one_image_is_named(tmp_path):
    root = write_folder(tmp_path / "pets", {"train": {"cat": 8, "dog": 1}, "val": {"cat": 1, "dog": 1}})
    check_one_line("class 'dog' has fewer than 2", lambda: create_splits(DataSpec("folder", str(root), held_out=2)))


def test_a_missing_part_says_how_to_get_one():
    check_one_line(r"no split 'held_out'; it has train, val, test: data.held_out=0.1 would make one",
                   lambda: get_split(create_splits(small()), "held_out"))


# --- training --------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_run_is_validated_on_the_part_and_an_evaluation_finds_it_again(tmp_path, monkeypatch):
    command = [*TINY, f"out={tmp_path}", "name=a", "budgets.targets=[0.5]", "recipe.epochs=2", "data.held_out=30",
               "budgets.calibrate=false"]
    real = NoTracker.log_eval
    monkeypatch.setattr(NoTracker, "log_eval", lambda self, rows: (_ for _ in ()).throw(KeyboardInterrupt)
                        if rows[0]["epoch"] == 2 else real(self, rows))
    assert run(train_main, command).code == 130
    monkeypatch.undo()
    outcome = run(train_main, command)
    assert outcome.code == 0 and "resuming after epoch 1" in outcome.out, outcome.err
    assert "chosen on held_out" in outcome.out
    results = json.loads((tmp_path / "a/results.json").read_text())
    assert (results["split"], results["validated_on"], results["rows"][0]["images"]) == ("test", "held_out", 50)
    rows = [r for r in MetricsFile(tmp_path / "a/metrics.jsonl").read() if r["kind"] == "eval"]
    assert [(r["epoch"], r["split"], r["images"]) for r in rows] == [(1, "held_out", 30), (2, "held_out", 30)]

    outcome = run(evaluate_main, [f"checkpoint={tmp_path}/a/checkpoints/best.pt", "split=held_out",
                                  "budgets.targets=[0.5]", f"out={tmp_path}/again"])
    assert outcome.code == 0, outcome.err
    again = json.loads((tmp_path / "again/results.json").read_text())
    best = next(r for r in rows if r["epoch"] == results["epoch"])
    for key in ("top1", "images", "conditional_fraction"):
        assert again["rows"][0][key] == best[key]
