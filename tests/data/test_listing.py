"""Which files of a folder are images: not what systems leave there, none twice, and none unnoticed when it is gone."""
from __future__ import annotations

import os
import shutil

import pytest
from PIL import Image
from small_data import check_one_line, write_folder

from bdsa.data.datasets import DataSpec, create_splits
from bdsa.data.fingerprint import difference
from bdsa.data.image_files import find_image_files


def splits_of(folder):
    return create_splits(DataSpec("folder", str(folder), image_size=16))


def test_what_systems_and_editors_leave_is_passed_over(folder):
    before = splits_of(folder).train.source.samples
    for place in (folder, folder / "train", folder / "train" / "cat"):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", "$RECYCLE.BIN"):
            (place / name).mkdir()
            shutil.copy(folder / "train" / "cat" / "0.png", place / name / "0-checkpoint.png")
        for name in ("._0.png", ".0.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
            (place / name).write_bytes(b"no image")
    splits = splits_of(folder)
    assert splits.classes == ["cat", "dog"] and splits.train.source.samples == before
    assert sum(path.parent.name == "cat" for path in find_image_files([str(folder / "train")])) == 3


def test_the_order_is_by_folder_and_name_as_torchvision_has_it(folder):
    for name in ("b/x", "a", "b"):
        (folder / "train" / "cat" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9)).save(folder / "train" / "cat" / name / "1.png")
    names = [os.path.relpath(path, folder / "train") for path, _ in splits_of(folder).train.source.samples]
    assert names == ["cat/0.png", "cat/1.png", "cat/2.png", "cat/a/1.png", "cat/b/1.png", "cat/b/x/1.png",
                     "dog/0.png", "dog/1.png"]


def test_names_of_any_letters_are_kept_and_no_list_of_objects_is_read_an_image_at_a_time(folder):
    """Of a list that is read, processes that read ahead come to hold a copy each: references are counted in it."""
    names = [os.fsdecode(name) for name in (b"\xff\xe9.png", "猫 1.png".encode(), b"a.png")]
    for name in names:
        Image.new("L", (9, 9)).save(folder / "train" / "dog" / name)
    source = splits_of(folder).train.source
    assert [os.path.basename(path) for path, label in source.samples if label] == sorted(["0.png", "1.png", *names])
    assert source.files[-1][0].startswith("dog/") and source[-1][1] == 1 and len([*source]) == len(source) == 8
    kept = [value for value in vars(source).values() if isinstance(value, list)]
    assert {type(item) for value in kept for item in value} == {int}


@pytest.mark.parametrize("place, target", [
    ("train/cat/again", "train/cat"), ("train/cat/again", "train"), ("train/cat/again", "."),
    ("train/cat/again", "train/dog"), ("train/cat/sub/up", "train/cat/sub"), ("train/cat/9.png", "train/cat/0.png"),
    ("train/cat/9.png", "train/dog/0.png"), ("train/cat/again", "train/cat/again"),
])
def test_a_link_into_the_same_images_counts_nothing_twice(folder, place, target):
    before = len(splits_of(folder).train)
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to((folder / target).absolute())
    assert len(splits_of(folder).train) == before == len(find_image_files([str(folder / "train")]))


def test_links_to_images_elsewhere_are_followed_once(folder, tmp_path):
    away = write_folder(tmp_path / "away", {"all": {"cats": 4, "dogs": 2}}) / "all"
    (away / "cats" / "back").symlink_to(away)
    shutil.rmtree(folder / "train" / "cat")
    (folder / "train" / "cat").symlink_to(away / "cats")
    (folder / "train" / "dog" / "more").symlink_to(away / "dogs")
    (folder / "train" / "dog" / "more again").symlink_to(away / "dogs")
    splits = splits_of(folder)
    assert splits.train.source.targets == [0] * 4 + [1] * 4
    moved = tmp_path / "linked"
    moved.symlink_to(folder)
    assert len(splits_of(moved).train) == 8 == len(find_image_files([str(moved / "train")]))


def test_a_class_folder_that_is_another_is_explained(folder):
    shutil.rmtree(folder / "train" / "dog")
    (folder / "train" / "dog").symlink_to(folder / "train" / "cat")
    check_one_line("class folder dog is empty or leads to images that are counted already", lambda: splits_of(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(folder):
    (folder / "train" / "cat").chmod(0)
    try:
        check_one_line("cannot list the folder '.*cat': Permission denied", lambda: splits_of(folder))
    finally:
        (folder / "train" / "cat").chmod(0o755)


def test_the_fingerprint_tells_what_has_changed_by_class(folder):
    first = splits_of(folder).fingerprint()
    assert splits_of(folder).fingerprint() == first and first["train"]["cat"][0] == 3
    Image.new("L", (9, 9)).save(folder / "train" / "dog" / "new.png")
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / "zero.png")
    assert difference(first["train"], splits_of(folder).fingerprint()["train"]) == (
        "class 'cat' has 3 images as before, but of other names or sizes; class 'dog' had 2 images and has 3")
    assert difference(first["val"], splits_of(folder).fingerprint()["val"]) == ""
