"""An own data set that errs is named by its name and the image, in one line, from a worker too."""
from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import check_one_line
from torch.utils.data import Dataset

from bdsa.data import registry
from bdsa.data.datasets import DataSpec, Sources, create_splits, register_dataset
from bdsa.data.loaders import eval_loader, train_loader


class Own(Dataset):
    """Four images; what the third does is the test's."""

    def __init__(self, third=lambda: (Image.new("RGB", (16, 16)), 1), targets=None):
        self.third = third
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.third() if index == 2 else (Image.new("RGB", (16, 16)), np.int64(index % 2))


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def splits_of(build, **options):
    register_dataset("own", image_size=16)(build)
    return create_splits(DataSpec("own", augmentation="none", **options))


def sources(dataset, **options):
    return Sources(dataset, dataset, None, ["a", "b"], native_size=16, **options)


def fail(error):
    raise error


@pytest.mark.parametrize("third, message", [
    (lambda: fail(ValueError("two\nlines")), r"cannot be read: ValueError: two \(test_own_data.py, line \d+\)$"),
    (lambda: fail(KeyError("x")), "cannot be read: KeyError: 'x'"),
    (lambda: fail(SystemExit(3)), "cannot be read: SystemExit: 3"),
    (lambda: None, "cannot be read: TypeError"),
    (lambda: (Image.new("RGB", (16, 16)), 2), "has the label 2, and there are 2 classes: labels are 0 to 1"),
    (lambda: (Image.new("RGB", (16, 16)), -1), "has the label -1"),
    (lambda: (Image.new("RGB", (16, 16)), 1.0), "has the label '1.0', which is no whole number"),
    (lambda: (Image.new("RGB", (16, 16)), "a"), "has the label 'a', which is no whole number"),
    (lambda: (Image.new("RGB", (16, 15)), 1), r"has 16 x 15 pixels and becomes \[3, 15, 16\], not \[3, 16, 16\]"),
    (lambda: (torch.zeros(3, 16, 16), 1), r"is a Tensor: a data set gives \(PIL image, label\)"),
    (lambda: (Image.new("F", (16, 16)), 1), "cannot be used: ValueError: its pixels are floating-point"),
])
def test_an_image_that_errs_is_named(third, message):
    splits = splits_of(lambda spec: sources(Own(third)))
    check_one_line(f"^data set 'own', val, image 2 {message}", lambda: list(eval_loader(splits.val, 2, 0)))
    check_one_line(f"^data set 'own', train, image 2 {message}",
                   lambda: list(train_loader(splits.train, 4, 0, seed=0)))


@pytest.mark.parametrize("third, message", [
    (lambda: fail(ValueError("two\nlines")), "cannot be read: ValueError: two .test_own_data.py, line"),
    (lambda: fail(SystemExit(3)), "cannot be read: SystemExit: 3"),
    (lambda: (Image.new("RGB", (16, 16)), 2), "has the label 2")])
def test_it_is_named_from_a_worker_too(third, message):
    splits = splits_of(lambda spec: sources(Own(third)))
    check_one_line(f"^data set 'own', val, image 2 {message}", lambda: list(eval_loader(splits.val, 2, 1)))


def test_a_reading_process_that_is_killed_is_one_line():
    splits = splits_of(lambda spec: sources(Own(lambda: os.kill(os.getpid(), signal.SIGKILL))))
    check_one_line("a process that reads images has ended .*data.workers=0",
                   lambda: list(eval_loader(splits.val, 2, workers=1)))


def test_the_index_is_the_data_sets_own_where_images_are_held_out():
    splits = splits_of(lambda spec: sources(Own(lambda: fail(OSError("gone")), [0, 1, 0, 1])), held_out=2)
    check_one_line("train, image 2 cannot be read: OSError: gone",
                   lambda: [list(dataset) for dataset in (splits.train, splits.held_out)])


@pytest.mark.parametrize("build, message", [
    (lambda spec: sources(Own(targets=[0, 1, 2, 1])), "own', train, image 2 has the label 2, and there are 2 classes"),
    (lambda spec: sources(Own(targets=[0, 1, None, 1])), "image 2 has the label 'None', which is no whole number"),
    (lambda spec: sources(Own(targets=[0, 1])), "own', train has 4 images and 2 targets"),
    (lambda spec: sources([]), "own', train has no images"),
    (lambda spec: fail(RuntimeError("no server")), r"'own' cannot be built: RuntimeError: no server \(test_own_data"),
    (lambda spec: fail(SystemExit()), "'own' cannot be built: SystemExit"),
    (lambda spec: None, "'own' cannot be built: TypeError: its builder returns a NoneType and not bdsa.Sources"),
    (lambda spec: sources(7), "'own' cannot be built: TypeError"),
    (lambda spec: Sources(Own(), None, Own(), ["a", "b"], native_size=16), "it has no val"),
    (lambda spec: Sources(Own(), Own(), None, [], native_size=16), "it names no class"),
])
def test_what_is_wrong_with_the_whole_is_said_before_an_image_is_read(build, message):
    check_one_line(message, lambda: splits_of(build))


@pytest.mark.parametrize("classes", [range(2), np.array(["a", "b"])])
def test_names_of_classes_become_plain_text(classes):
    """Files hold plain text alone: a training must not end with a network that nobody can open."""
    found = splits_of(lambda spec: Sources(Own(), Own(), None, classes, native_size=16)).classes
    assert found == [str(name) for name in classes] and {*map(type, found)} == {str}


def test_an_attribute_that_is_called_files_is_the_data_sets_own():
    dataset = Own(targets=[0, 1, 0, 1])
    dataset.files = ["1.png", "2.png", "3.png", "4.png"]
    assert splits_of(lambda spec: sources(dataset)).fingerprint()["train"] == {"a": [2, ""], "b": [2, ""]}


def test_an_image_that_holds_no_crop_is_named():
    register_dataset("own", image_size=16)(lambda spec: sources(Own(lambda: (Image.new("RGB", (5, 5)), 1))))
    splits = create_splits(DataSpec("own", augmentation="crop_flip"))
    check_one_line("own', train, image 2 cannot be used: ValueError: a side of 5 pixels .* holds? no crop of 16",
                   lambda: list(train_loader(splits.train, 4, 0, seed=0)))
