"""Geometry of PIL images that torchvision has not, or slower: crops with a border, and resizing to cover a rectangle.

Sizes are (height, width) in pixels, or one number for both.
"""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from bdsa.config.image_size import height_width

Size = tuple[int, int]


class Cover:
    """Resize an image, its sides in proportion, to the smallest that covers a rectangle."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        scale = max(wanted / side for wanted, side in zip(self.size, (image.height, image.width)))
        covering = [max(wanted, round(side * scale)) for wanted, side in zip(self.size, (image.height, image.width))]
        return functional.resize(image, covering, antialias=True)


class ReflectedCrop:
    """Random crop of `size` from the image with its mirror image around it, `padding` (rows, columns) wide.

    A black border, which test images do not have, is what masks learn first: they leave it out, meet
    their budgets by it, and run too much where there is none.
    """

    def __init__(self, size: int | Size, padding: int | Size) -> None:
        self.size, self.padding = height_width(size), height_width(padding)

    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        rows, columns = (self._places(*sides) for sides in zip(pixels.shape[:2], self.size, self.padding))
        return Image.fromarray(pixels[rows[:, None], columns])

    @staticmethod
    def _places(side: int, size: int, padding: int) -> np.ndarray:
        """The pixels, along one side, that a random crop shows."""
        start = _start(side, size, padding)
        places = np.abs(np.arange(start, start + size))
        return (side - 1) - np.abs((side - 1) - places)


class PaddedCrop:
    """Random crop of `size` from the image with `padding` black (rows, columns) around it.

    Pillow fills what a crop takes from outside the image with black, so nothing is padded first,
    which makes it several times as fast as torchvision's RandomCrop.
    """

    def __init__(self, size: int | Size, padding: int | Size) -> None:
        self.size, self.padding = height_width(size), height_width(padding)

    def __call__(self, image: Image.Image) -> Image.Image:
        (height, width), (rows, columns) = self.size, self.padding
        left, top = _start(image.width, width, columns), _start(image.height, height, rows)
        return image.crop((left, top, left + width, top + height))


def _start(side: int, size: int, padding: int) -> int:
    """Where a random crop begins along one side.

    Raises:
        ValueError: for a side that is too short for it.
    """
    if side + 2 * padding < size:
        raise ValueError(f"a side of {side} pixels and a border of {padding} hold no crop of {size}")
    return int(torch.randint(side + 2 * padding - size + 1, ())) - padding
