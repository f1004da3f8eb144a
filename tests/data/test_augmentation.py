"""RandAugment and random erasing: what they change, that they replay, and that every operation takes every image."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import small

from bdsa.data.datasets import create_splits
from bdsa.data.loaders import train_loader
from bdsa.data.rand_augment import check_policy, rand_augment
from bdsa.data.transforms import normalisation, train_transform


def one_pass(dataset, epoch: int, workers: int = 0) -> torch.Tensor:
    loader = train_loader(dataset, 8, workers, seed=4)
    loader.set_epoch(epoch)
    return torch.cat([images for images, _ in loader])


def test_augmentations_replay_and_leave_evaluation_alone():
    policy = "rand-m9-n3-p1.0-mstd0.5-inc1"
    splits = create_splits(small(augmentation="crop_flip", rand_augment=policy, random_erasing=0.5))
    plain = create_splits(small(augmentation="crop_flip"))
    first, second = one_pass(splits.train, 0), one_pass(splits.train, 1)
    torch.manual_seed(9), random.seed(9), np.random.seed(9)
    assert torch.equal(one_pass(splits.train, 1, workers=2), second)
    assert not torch.equal(first, second)
    assert (first != one_pass(plain.train, 0)).flatten(1).any(dim=1).all()
    assert torch.equal(splits.train_eval[0][0], plain.train_eval[0][0])


def shown(augmentation: str, size: int, times: int = 200, **settings) -> list[torch.Tensor]:
    """What training sees of one image, whose every pixel of a row and column is another, a 0..1 map each time."""
    ramp = np.arange(size * size, dtype=np.uint16).reshape(size, size)
    image = Image.fromarray(np.stack([ramp >> 8, ramp & 255, np.full_like(ramp, 255)], axis=2).astype(np.uint8))
    transform = train_transform(augmentation, size, None, size, [0.0] * 3, [1.0] * 3, **settings)
    torch.manual_seed(0)
    return [transform(image) for _ in range(times)]


def test_cifar_images_are_moved_by_up_to_four_pixels_and_mirrored_half_of_the_time():
    starts, mirrored = set(), {"crop": 0, "crop_flip": 0}
    for augmentation in mirrored:
        for view in shown(augmentation, 32, border="black"):
            inside = (255 * view).round().int()
            places = inside[0] * 256 + inside[1]
            there = inside[2] == 255  # black beyond the image
            rows, columns = there.any(1).nonzero().flatten(), there.any(0).nonzero().flatten()
            row, column = int(places[rows[0], columns[0]]) // 32, int(places[rows[0], columns[0]]) % 32
            turned = int(places[rows[0], columns[-1]]) % 32 < column
            mirrored[augmentation] += turned
            assert there.sum() == len(rows) * len(columns)
            starts |= {row - int(rows[0])} | ({column - int(columns[0])} if not turned else set())
    assert starts == set(range(-4, 5))
    assert mirrored["crop"] == 0 and 60 < mirrored["crop_flip"] < 140


def test_resized_crops_show_parts_of_many_sizes_and_mirror_them():
    """8 to 100 % of the image, as for ImageNet."""
    widths, mirrored = [], 0
    for view in shown("resized_crop_flip", 64):
        columns = 255 * view[1] % 64  # of the middle row, whose number does not change along it
        left, right = float(columns[32, 8]), float(columns[32, -9])
        mirrored += right < left
        widths.append(abs(right - left) * 64 / 47 / 64)
    assert 60 < mirrored < 140
    assert min(widths) < 0.4 and max(widths) > 0.85 and len({round(w, 1) for w in widths}) > 5


def test_images_are_normalised_as_imagenets_where_nothing_else_is_said():
    assert normalisation(None, None, 3) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert normalisation([0.1] * 3, None, 3) == ([0.1] * 3, [0.229, 0.224, 0.225])


def test_random_erasing_puts_noise_into_a_rectangle_of_some_images():
    options = {"augmentation": "none", "train_images": 60}
    plain = create_splits(small(**options)).train
    erased = create_splits(small(**options, random_erasing=0.5)).train
    random.seed(0), torch.manual_seed(0)
    changed = [(plain[k][0] != erased[k][0]).any(dim=0) for k in range(60)]
    assert 15 < sum(bool(c.any()) for c in changed) < 45
    for where in (c for c in changed if c.any()):
        height, width = int(where.any(dim=1).sum()), int(where.any(dim=0).sum())
        assert int(where.sum()) == height * width and 0.01 < height * width / 48 ** 2 < 0.4


@pytest.mark.parametrize("policy", [
    "rand-m0-p1.0", "rand-m10-n5-p1.0-inc1", "rand-m9-mstd101-tweights", "rand-m20-mmax20-inc1"])
def test_every_operation_of_rand_augment_takes_every_image(policy):
    check_policy(policy)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for operation in rand_augment(policy, 32, [0.5, 0.5, 0.5]).ops:
        random.seed(0)
        shown = [operation(image) for _ in range(12)]
        assert all(s.size == image.size and s.mode == "RGB" for s in shown), operation.name
        assert "Posterize" not in operation.name or all(np.asarray(s).any() for s in shown)
