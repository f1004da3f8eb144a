"""The images of a loader's batches, whatever the loader is."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bdsa.errors import UserError

IMAGES = ("image", "images", "pixel_values", "x", "input")  # where a batch that is a dictionary keeps them
AT_ONCE = 32  # of images that are one tensor


def first_images(loader: Iterable[Any], count: int, channels: int, what_for: str, instead: str = "") -> list[Tensor]:
    """The first batches' images, each [B, C, H, W], `count` of them at most.

    Args:
        loader: one tensor [N, C, H, W], or batches: tensors, tuples that begin with one, or dictionaries with one under
            "image", "images" or "pixel_values". Read until there are enough.
        channels: of an image.
        what_for: completes "there is nothing to ...".
        instead: what to do with batches that are none of these.

    Raises:
        UserError: for a batch without images or with other channels, and where no image comes.
    """
    taken, left = [], count
    for batch in loader.split(AT_ONCE) if isinstance(loader, Tensor) and loader.ndim == 4 else loader:
        found = _images_of(batch, instead)
        if found.shape[1] != channels:
            raise UserError(f"this network takes images of {channels} channels, and a batch has {list(found.shape)}")
        if len(found):
            taken.append(found[:left])
            left -= len(taken[-1])
        if left <= 0:
            break
    if not taken:
        raise UserError(f"there is nothing to {what_for}: the loader gives no batch")
    return taken


def _images_of(batch: Any, instead: str) -> Tensor:
    found = batch
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in IMAGES if key in batch), None)
    elif isinstance(batch, (tuple, list)) and batch:
        found = batch[0]
    if not isinstance(found, torch.Tensor) or found.ndim != 4:
        raise UserError(f"a batch of the loader is a {type(batch).__name__} in which no images [B, C, H, W] are found"
                        f"{instead and f': {instead}'}")
    return found
