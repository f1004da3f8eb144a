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
