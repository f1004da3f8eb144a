"""The data sets and loaders: the same images and batches for the same seed, and errors in one line."""
from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import check_one_line, small
from torchvision import datasets as tv_datasets
from torchvision.transforms import v2

from bdsa.data import registry
from bdsa.data.cluttered_digits import DEFAULT_IMAGES, ClutteredDigits, split_originals
from bdsa.data.crops import PaddedCrop, ReflectedCrop
from bdsa.data.datasets import DataSpec, Sources, create_splits, get_split, register_dataset
from bdsa.data.transforms import ToNormalized
from bdsa.errors import UserError

# ---------------------------------------------------------------- cluttered digits

def test_the_same_seed_draws_the_same_images_to_the_bit():
    # A digest, not a comparison with a second drawing: another platform must draw these bytes too.
    drawn = ClutteredDigits("val", images=24)
    digest = hashlib.sha256(drawn.images.tobytes() + drawn.boxes.tobytes()).hexdigest()
    assert digest[:16] == "62e1b1f51a0732bd"


@pytest.mark.parametrize("other", [dict(seed=1), dict(split="test"), dict(split="train")])
def test_another_seed_or_split_draws_other_images(other):
    one = ClutteredDigits("val", images=10)
    two = ClutteredDigits(**{"split": "val", "images": 10, **other})
    assert all((a != b).any() for a, b in zip(one.images, two.images))


@pytest.mark.parametrize("size", [32, 48, 100])
def test_a_longer_data_set_begins_with_a_shorter_one(size):
    # 100 images span several drawing chunks; 7 are less than one.
    longer, shorter = (ClutteredDigits("train", size, images=n) for n in (100, 7))
    assert (longer.images[:7] == shorter.images).all() and (longer.boxes[:7] == shorter.boxes).all()


def test_drawing_leaves_the_global_generators_alone():
    torch.manual_seed(3), np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    ClutteredDigits("val", images=3)
    assert (torch.get_rng_state() == before[0]).all() and (np.random.get_state()[1] == before[1]).all()


def test_splits_share_no_original_and_use_them_all():
    pools = {s: np.concatenate(split_originals(s)) for s in DEFAULT_IMAGES}
    together = np.concatenate(list(pools.values()))
    assert len(together) == len(set(together)) == 1797
    assert len(pools["train"]) / 1797 == pytest.approx(0.6, abs=0.01)
    for split, pool in pools.items():
        drawn = ClutteredDigits(split, seed=5, images=50)
        assert set(drawn.originals) <= set(pool)


def test_labels_are_those_of_the_originals_and_balanced():
    from sklearn.datasets import load_digits
    drawn = ClutteredDigits("test", images=200)
    assert (load_digits().target[drawn.originals] == drawn.labels).all()
    assert np.bincount(drawn.labels).tolist() == [20] * 10
    image, label = drawn[13]
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (48, 48)
    assert label == 3 and type(label) is int and drawn.classes[label] == "3"


@pytest.mark.parametrize("size", [32, 48, 128])
def test_boxes_lie_within_the_canvas_and_hold_the_brightest_part(size):
    drawn = ClutteredDigits("train", size, images=300)
    x0, y0, x1, y1 = drawn.boxes.T
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= size).all() and (y1 <= size).all()
    assert 0.35 <= ((y1 - y0) / size).mean() <= 0.5 and ((x1 - x0) > 0).all()
    brightness = drawn.images.mean(axis=3)
    for image, (left, top, right, bottom) in zip(brightness, drawn.boxes):
        inside = np.zeros(image.shape, bool)
        inside[top:bottom, left:right] = True
        assert image[inside].mean() > image[~inside].mean() + 20
    # Digits appear everywhere, not at one favourite place.
    assert x0.min() < size * 0.1 and x1.max() > size * 0.9 and y0.min() < size * 0.1 and y1.max() > size * 0.9


def test_the_transform_is_applied():
    drawn = ClutteredDigits("val", images=2, transform=lambda image: image.size)
    assert drawn[1] == ((48, 48), 1)


# ---------------------------------------------------------------- splits

def test_splits_of_the_embedded_data_set():
    splits = create_splits(small())
    assert (len(splits.train), len(splits.val), len(splits.test), len(splits.train_eval)) == (40, 20, 20, 40)
    assert splits.classes == [str(c) for c in range(10)] and splits.image_size == 48 and splits.notes == []
    image, label = splits.val[0]
    assert image.shape == (3, 48, 48) and image.dtype == torch.float32 and label == 0
    assert get_split(splits, "test") is splits.test
    assert splits.val.source.boxes.shape == (20, 4)


def test_train_eval_is_the_training_images_without_augmentation():
    splits = create_splits(small())
    expected = ToNormalized(splits.mean, splits.std)(splits.train.source[7][0])
    assert torch.equal(splits.train_eval[7][0], expected)
    torch.manual_seed(0)
    assert any(not torch.equal(splits.train[7][0], expected) for _ in range(3))


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip", "resized_crop_flip"])
def test_every_augmentation_gives_the_image_size(augmentation, folder):
    for spec in (small(augmentation=augmentation, image_size=40),
                 DataSpec("folder", str(folder), image_size=24, augmentation=augmentation),
                 DataSpec("folder", str(folder), image_size=24, resize=30, augmentation=augmentation)):
        splits = create_splits(spec)
        for dataset in (splits.train, splits.val, splits.train_eval):
            assert dataset[0][0].shape == (3, spec.image_size, spec.image_size)


def test_without_augmentation_training_images_are_the_evaluation_ones():
    splits = create_splits(small(augmentation="none"))
    assert torch.equal(splits.train[3][0], splits.train_eval[3][0])


def test_normalisation_agrees_with_torchvision():
    mean, std = [0.1, 0.5, 0.4], [0.2, 0.3, 1.0]
    image = ClutteredDigits("val", images=1)[0][0]
    steps = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    torch.testing.assert_close(ToNormalized(mean, std)(image), steps(image), rtol=1e-5, atol=1e-5)
    splits = create_splits(small(mean=mean, std=std))
    torch.testing.assert_close(splits.val[0][0], steps(splits.val.source[0][0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("made, mode", [(PaddedCrop, "constant"), (ReflectedCrop, "reflect")])
def test_a_random_crop_reaches_every_place_and_shows_the_border(made, mode):
    pixels = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    image, crop = Image.fromarray(np.stack([pixels] * 3, axis=2)), made((8, 8), padding=(2, 2))
    torch.manual_seed(0)
    seen = {np.asarray(crop(image))[..., 0].tobytes() for _ in range(500)}
    padded = np.pad(pixels, 2, mode=mode)
    assert seen == {padded[y:y + 8, x:x + 8].tobytes() for y in range(5) for x in range(5)}


def test_the_border_is_what_the_settings_say():
    for border, corner_is_black in (("black", True), ("reflect", False)):
        splits = create_splits(small(image_size=32, border=border, augmentation="crop", mean=[0, 0, 0], std=[1, 1, 1]))
        splits.train.source = [(Image.new("RGB", (32, 32), (200, 200, 200)), 0)]
        torch.manual_seed(1)
        darkest = min(float(splits.train[0][0].min()) for _ in range(20))
        assert (darkest == 0) == corner_is_black
    with pytest.raises(UserError, match="border 'mirror'"):
        create_splits(small(border="mirror"))


def test_evaluation_resizes_by_the_imagenet_ratio_for_resized_crops(folder):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    image.save(folder / "val" / "cat" / "0.png")
    splits = create_splits(DataSpec("folder", str(folder), image_size=56, augmentation="resized_crop_flip",
                                    mean=[0, 0, 0], std=[1, 1, 1]))
    expected = v2.CenterCrop(56)(v2.Resize(64)(image))
    torch.testing.assert_close(splits.val[0][0], v2.functional.to_dtype(
        v2.functional.pil_to_tensor(expected), torch.float32, scale=True))


def test_small_images_of_one_size_are_shown_as_they_are(folder, tmp_path):
    for path in folder.rglob("*.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    splits = create_splits(DataSpec("folder", str(folder), augmentation="auto"))
    assert splits.image_size == 32
    assert torch.equal(splits.val[0][0], ToNormalized(splits.mean, splits.std)(splits.val.source[0][0]))
    Image.new("RGB", (40, 32)).save(folder / "train" / "cat" / "0.png")
    assert create_splits(DataSpec("folder", str(folder), augmentation="auto")).image_size == 224


def test_ignored_options_are_noted(folder):
    assert "data.root is ignored" in create_splits(small(root="x")).notes[0]
    assert "data.val_images is ignored" in create_splits(DataSpec("folder", str(folder), val_images=3)).notes[0]


# ---------------------------------------------------------------- CIFAR

@pytest.mark.parametrize("name, kind, count", [("cifar10", tv_datasets.CIFAR10, 10),
                                               ("cifar100", tv_datasets.CIFAR100, 100)])
def test_cifar_is_read_and_its_val_is_noted(tmp_path, monkeypatch, name, kind, count):
    base = tmp_path / kind.base_folder
    base.mkdir()
    rng, key = np.random.default_rng(0), "labels" if count == 10 else "fine_labels"
    for file, _ in kind.train_list + kind.test_list:
        batch = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), key: [0, 1, 2, 3]}
        (base / file).write_bytes(pickle.dumps(batch))
    (base / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: [f"c{i}" for i in range(count)]}))
    monkeypatch.setattr(tv_datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    splits = create_splits(DataSpec(name, str(tmp_path), augmentation="crop_flip"))
    assert len(splits.classes) == count and splits.image_size == 32 and splits.val[0][0].shape == (3, 32, 32)
    assert splits.val is splits.test and "val is the test split" in splits.notes[0]


def test_a_missing_cifar_archive_says_how_to_fetch_it(tmp_path):
    check_one_line("cifar10 is missing or damaged .*: set data.download=true",
                   lambda: create_splits(DataSpec("cifar10", str(tmp_path))))


def test_a_failed_download_is_explained(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("network is unreachable")
    monkeypatch.setattr(tv_datasets.CIFAR10, "download", offline)
    check_one_line("cannot download cifar10 to .*: network is unreachable",
                   lambda: create_splits(DataSpec("cifar10", str(tmp_path / "new"), download=True)))


# ---------------------------------------------------------------- options and registry

@pytest.mark.parametrize("options, message", [
    (dict(name="cifar1O"), r"unknown data set 'cifar1O' \(did you mean 'cifar10'\?\)"),
    (dict(augmentation="cropflip"), r"unknown augmentation 'cropflip' \(did you mean 'crop_flip'\?\)"),
    (dict(image_size=7), "image size 7 is below 8"),
    (dict(image_size=16), "image size 16 does not suit cluttered_digits: it draws 32 to 256"),
    (dict(image_size=257), "image size 257 does not suit"),
    (dict(resize=40), "resize 40 is below the image size 48"),
    (dict(mean=[0.5]), r"mean \[0.5\] is not 3 fractions"),
    (dict(mean=[120, 110, 100]), "mean .* is not 3 fractions"),
    (dict(std=[0.2, 0.0, 0.2]), r"std \[0.2, 0.0, 0.2\] is not 3 fractions"),
    (dict(seed=-1), "seed -1 is negative"),
    (dict(test_images=0), "test_images is 0: give 1 or more"),
])
def test_a_wrong_option_is_explained_before_anything_is_drawn(options, message, monkeypatch):
    def drawing(*_):
        raise AssertionError("drew images before checking the options")
    monkeypatch.setattr("bdsa.data.clutter.draw", drawing)
    check_one_line(message, lambda: create_splits(small(**options)))


def test_unknown_split_names_are_explained():
    splits = create_splits(small())
    check_one_line(r"unknown split 'tset' \(did you mean 'test'\?\)", lambda: get_split(splits, "tset"))
    check_one_line(r"unknown split 'trian'", lambda: ClutteredDigits("trian"))


def test_a_registered_data_set_is_built_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    @register_dataset("greys", image_size=16)
    def build(spec: DataSpec) -> Sources:
        pairs = [(Image.new("L", (spec.image_size, spec.image_size), 100 * k), k) for k in range(2)]
        return Sources(pairs, pairs, None, ["dark", "light"], native_size=spec.image_size)

    splits = create_splits(DataSpec("greys"))
    assert splits.train[1][0].shape == (3, 16, 16) and splits.classes == ["dark", "light"] and splits.test is None
    with pytest.raises(UserError, match="'greys' is registered already"):
        register_dataset("greys")(build)
