"""The size of images as a setting: pixels of a square's side, or [height, width]."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bdsa.errors import UserError

LARGEST = 65536
ImageSize = int | list[int]


def check_image_size(name: str, value: Any) -> None:
    """Raise UserError, with the setting's name, for what is neither pixels nor [height, width]."""
    sides = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(side, int) and not isinstance(side, bool) for side in sides) or (
            isinstance(value, (list, tuple)) and len(sides) != 2):
        raise UserError(f"{name}={value} is neither pixels nor [height,width]: give for example 224 or [192,256]")
    if not all(0 < side <= LARGEST for side in sides):
        raise UserError(f"{name}={value} must be above zero and not above {LARGEST:,} pixels")


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of a size as it is set or recorded."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def as_set(sides: Sequence[int]) -> ImageSize:
    """A size (H, W) as it is set and recorded: one number for a square."""
    height, width = sides
    return height if height == width else [height, width]


def in_words(size: int | Sequence[int]) -> str:
    """A size to read: 224, or 192 x 256."""
    return str(size) if isinstance(size, int) else " x ".join(map(str, size))
