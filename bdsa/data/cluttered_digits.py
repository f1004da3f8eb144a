"""The embedded data set: a real handwritten digit at a random place among distracting strokes.

It needs no download and no disk, trains in minutes on a CPU, and its background is worth skipping:
the digit's box is about an eighth of the canvas. The originals are the 1797 8x8 digits in
scikit-learn's wheel.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from bdsa.data import clutter
from bdsa.errors import UserError, unknown

DEFAULT_IMAGES = {"train": 8000, "val": 1000, "test": 2000}
DEFAULT_SIZE = 48
SIZES = (32, 256)
_SPLIT_ID = {"train": 0, "val": 1, "test": 2}
# Every fifth original of a class goes to val and the next one to test. scikit-learn keeps the
# writers together, so taking turns gives each split some of every writer's digits.
_TURN = {"train": (0, 1, 2), "val": (3,), "test": (4,)}


@lru_cache(maxsize=1)
def _originals() -> tuple[np.ndarray, np.ndarray]:
    """The smooth originals [1797, 40, 40] and their labels [1797]."""
    from sklearn.datasets import load_digits  # a second to import: only this data set pays it

    digits = load_digits()
    return clutter.smooth(digits.images.astype(np.float32) / 16), digits.target.astype(np.int64)


def smooth_originals() -> np.ndarray:
    """The smooth originals [1797, 40, 40], by their row in `load_digits`."""
    return _originals()[0]


def split_originals(split: str) -> list[np.ndarray]:
    """Row numbers in `load_digits` that a split may use, one array per class; no seed moves them.

    Raises:
        UserError: if `split` is not train, val or test.
    """
    if split not in _TURN:
        raise unknown("split", split, _TURN)
    _, labels = _originals()
    by_class = [np.flatnonzero(labels == c) for c in range(10)]
    return [rows[np.isin(np.arange(len(rows)) % 5, _TURN[split])] for rows in by_class]


class ClutteredDigits(Dataset):
    """Digits 0 to 9 on a cluttered RGB canvas, drawn at the first look and kept as bytes.

    Image i depends on (seed, split, size, i) alone, so a longer data set begins with a shorter one.
    The classes take turns: i has the label i mod 10.

    Args:
        split: "train", "val" or "test"; they share no original digit.
        size: side of the square canvas in pixels, 32 to 256. Memory is images x size^2 x 3 bytes.
        seed: which images are drawn, 0 or more.
        images: how many; None means 8000, 1000 or 2000.
        transform: applied to the PIL image in `__getitem__`.

    Attributes:
        images: [N, size, size, 3] uint8.
        labels: [N] int64.
        boxes: [N, 4] int64, the digit's [x0, y0, x1, y1] in pixels, x1 and y1 exclusive.
        originals: [N] int64, the row in `load_digits` that image i shows.

    Raises:
        UserError: for an unknown split or a number out of its range.
    """

    classes = [str(c) for c in range(10)]

    def __init__(self, split: str, size: int = DEFAULT_SIZE, seed: int = 0, images: int | None = None,
                 transform: Callable | None = None) -> None:
        self.count = check_digits(split, size, seed, images)
        self.split, self.size, self.seed, self.transform = split, size, seed, transform

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images, labels, boxes and originals, drawn at the first look: bad settings elsewhere are found before."""
        count, size = self.count, self.size
        sprites, _ = _originals()
        pools = split_originals(self.split)
        labels = self.targets
        images = np.empty((count, size, size, 3), np.uint8)
        boxes = np.empty((count, 4), np.int64)
        originals = np.empty(count, np.int64)

        chunk = max(1, 32 * 48 * 48 // size ** 2)     # a few planes of a chunk fit a core's cache
        for start in range(0, count, chunk):
            rows = range(start, min(start + chunk, count))
            uniforms = np.empty((len(rows), clutter.UNIFORMS))
            noise = np.empty((len(rows), size, size), np.uint8)
            for k, i in enumerate(rows):
                rng = np.random.default_rng([self.seed, _SPLIT_ID[self.split], i])
                pool = pools[labels[i]]
                originals[i] = pool[int(rng.random() * len(pool))]
                uniforms[k] = rng.random(clutter.UNIFORMS)
                noise[k] = np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size)
            part = slice(rows.start, rows.stop)
            images[part], boxes[part] = clutter.draw(uniforms, noise, sprites[originals[part]])
        return images, labels, boxes, originals

    @property
    def targets(self) -> np.ndarray:
        """The labels [N] int64, known without drawing."""
        return np.arange(self.count, dtype=np.int64) % 10

    def draw(self) -> None:
        """Draw now: before workers are forked, which would each draw all images again."""
        _ = self._drawn  # a cached property

    @property
    def images(self) -> np.ndarray:
        return self._drawn[0]

    @property
    def labels(self) -> np.ndarray:
        return self._drawn[1]

    @property
    def boxes(self) -> np.ndarray:
        return self._drawn[2]

    @property
    def originals(self) -> np.ndarray:
        return self._drawn[3]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """(PIL RGB image, label), or (transform(image), label)."""
        image = Image.fromarray(self.images[index])
        return (self.transform(image) if self.transform else image), int(self.labels[index])


def check_digits(split: str, size: int, seed: int, images: int | None) -> int:
    """Check the options of `ClutteredDigits` before anything is drawn; return the number of images."""
    if split not in _SPLIT_ID:
        raise unknown("split", split, _SPLIT_ID)
    if not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"image size {size} does not suit cluttered_digits: "
                        f"it draws {SIZES[0]} to {SIZES[1]} pixels")
    if seed < 0:
        raise UserError(f"data seed {seed} is negative: give 0 or more")
    count = DEFAULT_IMAGES[split] if images is None else images
    if count < 1:
        raise UserError(f"{split}_images is {count}: give 1 or more")
    return count
