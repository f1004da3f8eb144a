"""Scenes for dense prediction without a download: handwritten digits to find and to segment on large canvases.

A scene is a noisy background with distracting strokes all over and some digits, each among a few hundred pixels of
nothing. The digits are those of `ClutteredDigits`, in the same splits.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bdsa.data import clutter
from bdsa.data.cluttered_digits import smooth_originals, split_originals
from bdsa.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = (96, 1024)
CELL = 64              # a digit's and a stroke's own canvas, in pixels
INK = 0.25             # opacity from which on a pixel is the digit's
SPLITS = {"train": 0, "val": 1, "test": 2}


class DigitScenes(Dataset):
    """Scenes with boxes, labels and a class for each pixel. Scene i depends on (seed, split, size, digits, i) alone.

    Args:
        split: "train", "val" or "test"; they share no original digit.
        size: side of the canvas, or (height, width), in pixels, 96 to 1024 each.
        count: how many scenes.
        digits: how many digits a scene shows at most; at least one.
        seed: which scenes are drawn, 0 or more.

    Raises:
        UserError: for an unknown split or a number out of its range.
    """

    classes = [str(c) for c in range(10)]

    def __init__(self, split: str, size: int | tuple[int, int] = 256, count: int = 1000, digits: int = 6,
                 seed: int = 0) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        for side in (self.height, self.width):
            if not SIDES[0] <= side <= SIDES[1]:
                raise UserError(f"a scene of {side} pixels is none of {SIDES[0]} to {SIDES[1]}")
        if digits < 1 or count < 1 or seed < 0:
            raise UserError(f"digits={digits}, count={count} and seed={seed}: give at least 1, 1 and 0")
        self.pools = split_originals(split)
        self.split, self.count, self.digits, self.seed = split, count, digits, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A scene.

        Returns:
            float32 [3, H, W], normalised; and "boxes" float32 [N, 4] as x0, y0, x1, y1, "labels" int64 [N] from 1 to
            10 (digit + 1) and "mask" int64 [H, W], 0 where there is no digit.
        """
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, SPLITS[self.split], self.height, self.width, self.digits, index])
        canvas = self._background(rng)
        mask = np.zeros((self.height, self.width), np.int64)
        boxes, labels = [], []
        for _ in range(int(rng.integers(1, self.digits + 1))):
            label = int(rng.integers(10))
            pool = self.pools[label]
            original = smooth_originals()[pool[int(rng.integers(len(pool)))]][None]
            u = rng.random((1, clutter.DIGIT)).astype(np.float32)
            cover, box = clutter.digit_cover(u, original, CELL)
            top, left = int(rng.integers(self.height - CELL + 1)), int(rng.integers(self.width - CELL + 1))
            x0, y0, x1, y1 = box[0] + (left, top, left, top)
            if mask[y0:y1, x0:x1].any():
                continue  # digits do not overlap
            tint = 0.55 + 0.45 * u[:, :3]
            clutter.paint(canvas[:, :, top:top + CELL, left:left + CELL], cover, tint / tint.max(axis=1, keepdims=True))
            mask[top:top + CELL, left:left + CELL][cover[0] > INK] = label + 1
            boxes.append((x0, y0, x1, y1))
            labels.append(label + 1)
        image = torch.from_numpy(np.clip(canvas[0], 0, 1))
        mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        return (image - mean) / std, {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                                      "labels": torch.tensor(labels, dtype=torch.int64),
                                      "mask": torch.from_numpy(mask)}

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """[1, 3, H, W] float32: a noisy gradient, and strokes in cells at random places."""
        side = max(self.height, self.width)
        noise = rng.integers(0, 256, (1, side, side), dtype=np.uint8)
        canvas = clutter.gradient(rng.random((1, clutter.BACKGROUND)).astype(np.float32), noise)
        canvas = canvas[:, :, :self.height, :self.width].copy()
        strokes = self.height * self.width * clutter.STROKES // (4 * CELL * CELL)
        for _ in range(strokes):
            cover, colour = clutter.stroke(rng.random((1, clutter.PER_STROKE)).astype(np.float32), CELL)
            top, left = int(rng.integers(self.height - CELL + 1)), int(rng.integers(self.width - CELL + 1))
            clutter.paint(canvas[:, :, top:top + CELL, left:left + CELL], cover, colour)
        return canvas


def collate(scenes: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """A batch of scenes of one size: images [B, 3, H, W], and a list of their targets."""
    return torch.stack([image for image, _ in scenes]), [target for _, target in scenes]
