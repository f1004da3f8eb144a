"""Labels are a network's outputs, matched by the classes' names; a folder of test images alone is enough for them."""
from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bdsa.data.class_names import outputs_by_name, shortened
from bdsa.data.datasets import DataSpec, create_splits
from bdsa.data.loaders import train_loader
from bdsa.errors import UserError

ANIMALS = ["cat", "dog", "owl"]


def folder(root: Path, layout: dict[str, list[str]], side: int = 32) -> DataSpec:
    """Two images a class, whose brightness tells the class."""
    for split, classes in layout.items():
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (side, side), (40 * number, 0, 0)).save(root / split / name / f"{i}.png")
    return DataSpec("folder", root=str(root), augmentation="none")


@pytest.mark.parametrize("data, network, outputs", [
    (ANIMALS, ANIMALS, [0, 1, 2]),
    (["owl", "cat", "dog"], ANIMALS, [2, 0, 1]),
    (["owl", "dog"], ANIMALS, [2, 1]),
    (["same", "same"], ["same", "same"], [0, 1]),
])
def test_labels_are_matched_by_name(data: list[str], network: list[str], outputs: list[int]) -> None:
    assert outputs_by_name(data, network, "best.pt") == outputs


@pytest.mark.parametrize("data, said", [
    (["cat", "cow", "owl"], "lacks 1 of them: cow"),
    (["Cat", "Dog", "Owl"], "lacks 3 of them: Cat, Dog, Owl"),
    ([*ANIMALS, "yak"], "lacks 1 of them: yak"),
    (["cat", "cat", "dog"], "names are repeated"),
])
def test_other_names_are_refused_with_both_lists(data: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        outputs_by_name(data, ANIMALS, "best.pt")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert "classes cat, dog, owl" in str(error.value) and ", ".join(data) in str(error.value)


def test_long_lists_are_shortened() -> None:
    assert shortened([str(i) for i in range(1000)]) == "0, 1, 2, 3, 4, 5, ... (1000 in all)"
    assert len(shortened(["x" * 5000])) < 60


def test_splits_take_the_networks_names_and_numbers(tmp_path: Path) -> None:
    splits = create_splits(folder(tmp_path, {"train": ["dog", "owl"], "test": ["dog", "owl"]}))
    named = splits.named_as(ANIMALS, "best.pt")
    assert named.classes == ANIMALS and named.val is named.test
    assert [named.test[i][1] for i in range(4)] == [1, 1, 2, 2]
    assert [splits.test[i][1] for i in range(4)] == [0, 0, 1, 1]
    assert {label for _, label in (named.train_eval[i] for i in range(4))} == {1, 2}
    assert splits.named_as(["dog", "owl"], "best.pt") is splits


def test_a_folder_of_test_images_alone_is_for_evaluation(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"test": ANIMALS})
    splits = create_splits(spec)
    assert splits.classes == ANIMALS and len(splits.test) == 6 and splits.image_size == 32
    for asked in (lambda: train_loader(splits.train, 2, 0, 0), lambda: splits.train_eval[0],
                  lambda: create_splits(DataSpec("folder", root=spec.root, held_out=0.5))):
        with pytest.raises(UserError, match="has no folder train.*there: test"):
            asked()


def test_the_resize_is_held_against_the_images_own_size(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"train": ANIMALS, "test": ANIMALS})
    spec.resize = 48
    assert create_splits(spec).test[0][0].shape == (3, 32, 32)
    spec.resize = 24
    with pytest.raises(UserError, match="resize 24 is below the image size 32"):
        create_splits(spec)
