"""A part of the training images that is kept out of training, to choose the best epoch and weigh the budgets by.

The part is the same for the same data, size and seed, whatever else a run is configured with, so that
a resumed run and an evaluation find it again. Labels are read, images are not.
"""
from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from bdsa.data.seeds import mixed_seed
from bdsa.data.subset import Rows
from bdsa.errors import UserError


def check_held_out(size: float | None) -> None:
    """Raise UserError unless `size` is None, a fraction in (0, 1) or a whole number of images."""
    if size is not None and not (0 < size < 1 or (size >= 1 and float(size).is_integer())):
        raise UserError(f"data.held_out={size:g} is neither a fraction in (0, 1) nor a whole number of images, "
                        f"such as 0.1 or 500")


def hold_out(source: Dataset, size: float, seed: int, classes: list[str]) -> tuple[Rows, Rows]:
    """Split a training set, every class by the same share.

    Args:
        source: training images with `targets`, the label of each, as torchvision's data sets have.
        size: images to hold out, as `check_held_out` allows.
        seed: which images of each class are taken.
        classes: the name of each label.

    Returns:
        (images left for training, images held out).

    Raises:
        UserError: if either part would lack a class, or the data set does not tell its labels.
    """
    targets = getattr(source, "targets", None)
    if targets is None:
        raise UserError("data.held_out needs a data set that lists its labels: give its training source `targets`, "
                        "one label an image")
    labels = np.asarray(targets)
    count = round(size * len(labels)) if size < 1 else int(size)
    by_class = [np.flatnonzero(labels == c) for c in range(len(classes))]
    held_per_class = shares([len(rows) for rows in by_class], count, classes)
    taken: list[int] = []
    for label, (rows, share) in enumerate(zip(by_class, held_per_class)):
        generator = torch.Generator().manual_seed(mixed_seed("held_out", seed, label))
        taken += rows[torch.randperm(len(rows), generator=generator)[:share].numpy()].tolist()
    out = set(taken)
    return Rows(source, [i for i in range(len(labels)) if i not in out]), Rows(source, sorted(out))


def shares(sizes: list[int], count: int, classes: list[str]) -> list[int]:
    """How many images of each class are held out: `count` in all, in proportion, at least one held out and one left.

    Raises:
        UserError: if that cannot be.
    """
    total, fewest, most = sum(sizes), len(sizes), sum(sizes) - len(sizes)
    asked = f"data.held_out asks for {count:,} of {total:,} training images"
    if count >= total:
        raise UserError(f"{asked}: nothing would be left to train on")
    lonely = next((name for name, size in zip(classes, sizes) if size < 2), None)
    if lonely is not None:
        raise UserError(f"{asked}, but class '{lonely}' has fewer than 2: it would be left empty in one of the parts")
    if not fewest <= count <= most:
        raise UserError(f"{asked}: a class would be left empty; hold out {fewest:,} to {most:,} images, so that each "
                        f"of the {len(sizes)} classes is in both parts")
    wanted = [count * size / total for size in sizes]
    given = [min(max(int(w), 1), size - 1) for w, size in zip(wanted, sizes)]
    while (left := count - sum(given)) != 0:  # what rounding leaves, a class at a time: the one farthest from its share
        step = 1 if left > 0 else -1
        free = [i for i, (g, size) in enumerate(zip(given, sizes)) if 1 <= g + step <= size - 1]
        given[max(free, key=lambda i: step * (wanted[i] - given[i]))] += step
    return given
