"""Ponder maps: how many blocks ran at each position, as numbers and over the image."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from torch import Tensor
from torch.nn import functional

from bdsa.report.pictures.line_styles import HEAT

_STRENGTH = 0.65  # of the colours over the image: lower, and counts look alike; higher, and the image is gone


def ponder_map(masks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Count the blocks that ran at each position; the masks are left as they are.

    Args:
        masks: one a block, bool or 0/1, [B, 1, h, w], h and w of the block's own resolution.
        size: (H, W) of the map; masks are brought to it by nearest neighbour.

    Returns:
        float [B, H, W], from 0 to the number of blocks.
    """
    if not masks:
        raise ValueError("a ponder map needs the mask of at least one block")
    count = torch.zeros(masks[0].shape[0], *size, device=masks[0].device)
    for mask in masks:
        count += functional.interpolate(mask.detach().float(), size, mode="nearest")[:, 0]
    return count


def overlay(image: Tensor, count: np.ndarray, most: int) -> np.ndarray:
    """The image in pale grey under the colours of its ponder map; where no block ran, nothing lies over it.

    Args:
        image: float [3, H, W] in 0..1.
        count: the ponder map [H, W], from 0 to `most`.

    Returns:
        float [H, W, 3] in 0..1.
    """
    grey = (0.3 + 0.7 * image.mean(0).numpy())[..., None]
    heat = colormaps[HEAT](count / most)[..., :3]
    return np.where(count[..., None] > 0, (1 - _STRENGTH) * grey + _STRENGTH * heat, grey)


def overlay_colours(most: int) -> ListedColormap:
    """The colours of `overlay` on an image of medium grey, from 1 to `most` blocks: those of its scale."""
    heat = colormaps[HEAT](np.linspace(1 / most, 1, 256))[:, :3]
    return ListedColormap((1 - _STRENGTH) * 0.65 + _STRENGTH * heat)
