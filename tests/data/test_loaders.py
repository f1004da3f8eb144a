"""Loaders: what replays, what is shared between ranks, and what is refused."""
from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from small_data import check_one_line, small
from torch.utils.data import Subset

from bdsa.data.datasets import create_splits
from bdsa.data.loaders import eval_loader, train_loader


class Noisy:
    """Samples that draw from all three global generators, as augmentations of libraries do."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        drawn = [torch.rand(()).item(), random.random(), np.random.rand()]
        return torch.tensor(drawn)[:, None, None].expand(3, 2, 2), index


def one_pass(loader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader.set_epoch(epoch)
    images, labels = zip(*loader)
    return torch.cat(images), torch.cat(labels)


def same(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two))


def test_batches_depend_on_seed_and_epoch_alone():
    dataset = create_splits(small()).train
    loader = train_loader(dataset, 8, 0, seed=4)
    first = [one_pass(loader, epoch) for epoch in (0, 1, 2)]
    assert not same(first[0], first[1]) and not same(first[1], first[2])
    torch.manual_seed(99), random.seed(99), np.random.seed(99)
    again = train_loader(dataset, 8, 0, seed=4)
    assert same(one_pass(again, 2), first[2]) and same(one_pass(again, 0), first[0])
    assert not same(one_pass(train_loader(dataset, 8, 0, seed=5), 0), first[0])
    workers = train_loader(dataset, 8, 2, seed=4)              # persistent: they must hear of the epoch
    assert all(same(one_pass(workers, epoch), first[epoch]) for epoch in (0, 2, 1))
    automatic = train_loader(dataset, 8, None, seed=4)
    assert same(one_pass(automatic, 1), first[1])


@pytest.mark.parametrize("cores, processes, workers", [(1, 1, 0), (2, 1, 1), (6, 1, 5), (64, 1, 8), (16, 4, 3),
                                                       (4, 8, 0)])
def test_the_cores_to_spare_read_ahead(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert train_loader(Noisy(), 1, None, 0).num_workers == workers
    assert eval_loader(Noisy(), 6, None).num_workers == min(workers, 2)    # no more than batches
    assert eval_loader(Noisy(), 6, 3).num_workers == 3                     # as asked


def test_every_global_generator_is_seeded_per_sample_and_given_back():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    whole = one_pass(train_loader(Noisy(), 11, 0, seed=0), 3)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    in_pairs = one_pass(train_loader(Noisy(), 1, 2, seed=0), 3)
    assert same(whole, in_pairs)
    assert len(whole[0].unique()) == 33                        # no two samples share their numbers


def test_training_batches_are_full_distinct_and_typed():
    loader = train_loader(create_splits(small()).train, 12, 0, seed=0)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for images, labels in batches:
        assert images.shape == (12, 3, 48, 48) and images.dtype == torch.float32 and labels.dtype == torch.int64
    indices = torch.cat([labels for _, labels in train_loader(Noisy(), 5, 0, seed=0)])
    assert len(indices.unique()) == 10


def test_ranks_share_the_batches_of_one_process():
    whole = list(train_loader(Noisy(), 4, 0, seed=0))
    parts = [list(train_loader(Noisy(), 2, 0, seed=0, rank=r, world=2)) for r in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 2
    for batch, one, two in zip(whole, *parts):
        assert same(batch, [torch.cat(pair) for pair in zip(one, two)])


def test_evaluation_sees_every_image_once_in_order():
    splits = create_splits(small())
    images, labels = zip(*eval_loader(splits.test, 8, 0))
    assert [len(i) for i in images] == [8, 8, 4] and torch.cat(labels).tolist() == [k % 10 for k in range(20)]
    part = next(iter(eval_loader(Subset(splits.train_eval, [5, 2]), 8, 0)))
    assert part[1].tolist() == [5, 2] and part[1].dtype == torch.int64
    assert torch.equal(part[0][0], splits.train_eval[5][0])


@pytest.mark.parametrize("call, message", [
    (lambda d: train_loader(d, 12, 0, 0), "batch size 12 is larger than the training set of 11 images"),
    (lambda d: train_loader(d, 6, 0, 0, 0, 2), "batch size 6 in each of 2 processes is larger .* 11 images"),
    (lambda d: train_loader(d, 0, 0, 0), "batch size 0 is below 1"),
    (lambda d: eval_loader(d, -1, 0), "batch size -1 is below 1"),
    (lambda d: eval_loader(d, 1, -1), "-1 workers: give 0"),
])
def test_a_wrong_loader_option_is_explained(call, message):
    check_one_line(message, lambda: call(Noisy()))
