"""Folders of images: what is read, and what is explained when the layout is wrong."""
from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from PIL import Image
from small_data import check_one_line, write_folder

from bdsa.data.datasets import DataSpec, create_splits, get_split
from bdsa.data.loaders import eval_loader
from bdsa.errors import UserError


def test_a_folder_is_read_with_its_classes_and_counts(folder):
    (folder / "train" / ".cache").mkdir()
    splits = create_splits(DataSpec("folder", str(folder), augmentation="resized_crop_flip"))
    assert splits.classes == ["cat", "dog"] and splits.image_size == 224 and splits.test is None
    assert [label for _, label in splits.train_eval] == [0, 0, 0, 1, 1]
    assert [label for _, label in splits.val] == [0, 1, 1]
    assert splits.val[0][0].shape == (3, 224, 224) and splits.notes == []
    with pytest.raises(UserError, match="'folder' has no split 'test'; it has train, val"):
        get_split(splits, "test")


def test_val_is_the_test_split_when_only_test_exists(folder):
    (folder / "val").rename(folder / "test")
    splits = create_splits(DataSpec("folder", str(folder)))
    assert splits.val is splits.test and "val is the test split" in splits.notes[0]


def test_val_and_test_are_kept_apart(folder):
    write_folder(folder, {"test": {"cat": 4, "dog": 4}})
    splits = create_splits(DataSpec("folder", str(folder)))
    assert (len(splits.val), len(splits.test)) == (3, 8) and splits.notes == []


@pytest.mark.parametrize("layout, message", [
    ({"training": {"a": 1, "b": 1}, "val": {}}, r"no folder train \(did you mean 'training'\?\); there: training"),
    ({}, r"no folder train; there: no folders"),
    ({"train": {"a": 1, "b": 1}, "vall": {"a": 1}}, r"neither val nor test \(did you mean 'vall'\?\)"),
    ({"train": {"a": 1}, "val": {"a": 1}}, r"train' has only one class, a"),
    ({"train": {"a": 1, "b": 0}, "val": {"a": 1, "b": 1}}, r"train' lacks images: class folder b is empty"),
    ({"train": {"a": 1, "b": 1}, "val": {"a": 1, "c": 1}}, r"val' differs .* without b and with c"),
    ({"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1, "c": 1}}, r"test' differs .* with c"),
])
def test_a_wrong_folder_is_explained(tmp_path, layout, message):
    root = tmp_path / "data"
    root.mkdir()
    write_folder(root, layout)
    check_one_line(message, lambda: create_splits(DataSpec("folder", str(root))))


def test_a_folder_without_class_folders_is_explained(folder):
    (folder / "test").mkdir()
    check_one_line("test' has no class folders", lambda: create_splits(DataSpec("folder", str(folder))))


@pytest.mark.parametrize("name", ["folder", "cifar10", "cifar100"])
def test_a_wrong_root_is_explained(name, folder, tmp_path):
    file = tmp_path / "archive.tar"
    file.write_text("")
    for root, message in ((None, f"'{name}' needs its folder: set data.root"), (str(file), "is a file"),
                          (str(tmp_path / "pest"), r"does not exist \(did you mean 'pets'\?\)"),
                          (str(tmp_path / "no" / "such"), "does not exist")):
        check_one_line(message, partial(create_splits, DataSpec(name, root)))


@pytest.mark.parametrize("content", [b"not an image", b"", "cut short"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(folder, content, workers):
    path = folder / "val" / "dog" / "1.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if content == "cut short":
        Image.fromarray(noise).save(path)
        content = path.read_bytes()[:3000]
    path.write_bytes(content)
    splits = create_splits(DataSpec("folder", str(folder), image_size=16))
    check_one_line(r"^cannot read the image '.*dog.1\.png': ",
                   lambda: list(eval_loader(splits.val, 2, workers)))
