"""Loaders whose batches replay: epoch e of seed s is the same whatever was drawn before it.

The sampler yields (epoch, index) pairs, so that the epoch reaches persistent workers with every
sample, and each sample's augmentation draws from generators seeded with (seed, epoch, index). The
number of workers and the state of the global generators therefore change nothing, and a resumed
run needs only the number of its epoch.
"""
from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bdsa.data.seeds import mixed_seed
from bdsa.errors import UserError
from bdsa.machine import spare_cores


class EpochLoader(DataLoader):
    """A DataLoader with an epoch: images float32 [B, C, H, W], labels int64 [B].

    An unreadable image is a UserError of one line, from a worker too, where PyTorch would wrap it
    in the worker's traceback; and so is a worker that was killed.
    """

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentations of the next pass; a pass under way keeps its own."""
        if isinstance(self.sampler, EpochOrder):
            self.sampler.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        try:
            yield from super().__iter__()
        except UserError as error:
            line = str(error).rstrip().splitlines()[-1]
            name = f"{UserError.__module__}.{UserError.__qualname__}: "
            raise UserError(line.removeprefix(name)) from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise UserError("a process that reads images has ended (killed, or for want of memory): give fewer "
                            "data.workers; data.workers=0 reads in the main process, which shows an error") from error


def train_loader(dataset: Dataset, batch_size: int, workers: int | None, seed: int,
                 rank: int = 0, world: int = 1) -> EpochLoader:
    """Shuffled, augmented batches of exactly `batch_size`; call `set_epoch(e)` before each pass.

    Args:
        dataset: gives (float32 [C, H, W], int).
        batch_size: images of one process and step.
        workers: processes that read ahead; 0 reads in this one, None takes what `spare_cores` says.
        seed: with the epoch, fixes the order and every augmentation.
        rank, world: with several processes, rank r takes the r-th part of each batch of
            `batch_size * world`, so together they see what one process with that batch would.

    Raises:
        UserError: for a data set smaller than a batch, or a number out of its range.
    """
    _check(batch_size, workers)
    if len(dataset) < batch_size * world:
        processes = f" in each of {world} processes" if world > 1 else ""
        raise UserError(f"batch size {batch_size}{processes} is larger than the training set of "
                        f"{len(dataset)} images: no full batch would be left")
    order = EpochOrder(len(dataset), batch_size, seed, rank, world)
    return _loader(ReplayedDataset(dataset, seed), batch_size, workers, order)


def eval_loader(dataset: Dataset, batch_size: int, workers: int | None, rank: int = 0,
                world: int = 1) -> EpochLoader:
    """Every image once and in order; the last batch may be smaller. Arguments as for training.

    With several processes, rank r takes every world-th batch from batch r on: the same batches as in
    one process, none twice. A rank may be left with one batch fewer, or none.
    """
    _check(batch_size, workers)
    mine = None if world == 1 else [i for i in range(len(dataset)) if i // batch_size % world == rank]
    return _loader(dataset, batch_size, workers, mine)


class EpochOrder(Sampler[tuple[int, int]]):
    """The (epoch, index) pairs of one process, in an order drawn from (seed, epoch)."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.world) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(mixed_seed("order", self.seed, epoch))
        order = torch.randperm(self.length, generator=generator)
        mine = order[:len(self) * self.world].view(-1, self.world, self.batch_size)[:, self.rank]
        return iter([(epoch, index) for index in mine.flatten().tolist()])


class ReplayedDataset(Dataset):
    """Reads (epoch, index) keys: every sample's random numbers start from (seed, epoch, index)."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[torch.Tensor, int]]:
        # A batch at a time, because saving and restoring the generators costs as much as a sample.
        samples = []
        with _forked_generators():
            for epoch, index in keys:
                start = mixed_seed("sample", self.seed, epoch, index)
                # torch.manual_seed would also visit every accelerator, which takes longer than a sample.
                torch.default_generator.manual_seed(start)
                random.seed(start)
                np.random.seed(start % 2 ** 32)
                samples.append(self.dataset[index])
        return samples


@contextmanager
def _forked_generators() -> Iterator[None]:
    """Give the global CPU generators of torch, random and numpy back as they were."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def _loader(dataset: Dataset, batch_size: int, workers: int | None,
            order: EpochOrder | list[int] | None) -> EpochLoader:
    if workers is None:  # no more than there are batches to read
        workers = min(spare_cores(), math.ceil(len(dataset if order is None else order) / batch_size))
    # Its own generator: a DataLoader without one draws from the global generator at every pass.
    return EpochLoader(dataset, batch_size, sampler=order, num_workers=workers,
                       persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
                       generator=torch.Generator().manual_seed(0))


def _check(batch_size: int, workers: int | None) -> None:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is below 1: give 1 or more images")
    if workers is not None and workers < 0:
        raise UserError(f"{workers} workers: give 0 to read in the main process, or more")
