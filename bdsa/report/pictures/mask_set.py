"""The masks of a few images in one small file, masks.json: what bdsa-report shows under its slider of budgets.

A strip is a row of pictures side by side in one PNG, or JPEG for large photos: one for the images, one a
budget for the ponder maps. A ponder map's pixel is the number of blocks that ran there, as the index of a
palette: 0 is transparent, so that it can lie over the image, and the others run through viridis.
"""
from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bdsa.report.pictures.line_styles import HEAT
from bdsa.report.pictures.masks import MaskColumn
from bdsa.report.pictures.ponder import ponder_map
from bdsa.runs.files import write_json

_SHOWN = 8       # images, at most
_SIDE = 128      # pixels of a shown image, at most: the page shows it hardly larger
_LOSSLESS = 64   # up to this side images are kept as they are


def write_mask_set(path: Path, images: Tensor, columns: Sequence[MaskColumn], *, labels: Sequence[str | None],
                   densities: Mapping[str, Sequence[float]], measured: int) -> None:
    """Write the file; its folder is made.

    Args:
        images: float [B, 3, H, W] in 0..1; the first 8 are kept.
        columns: what the network did at each budget, predictions among it.
        labels: the true class of each image, None where it is not known.
        densities: budget name -> share of positions at which each block ran, mean over `measured` images; none for a
            budget that was not measured.
    """
    images = images[:_SHOWN].float().cpu()
    count, _, height, width = images.shape
    fine = tuple(max(mask.shape[side] for column in columns for mask in column.masks) for side in (2, 3))
    blocks = max(len(column.masks) for column in columns)
    budgets = {column.budget.name: {"budget": float(column.budget), "masks": _ponder(column.masks, count, fine, blocks),
                                    "predictions": list(column.predictions[:count]),
                                    "densities": [round(float(d), 4) for d in densities.get(column.budget.name, ())]}
               for column in columns}
    write_json(path, {"count": count, "ratio": width / height, "blocks": blocks, "measured": measured,
                      "images": _images(images), "labels": list(labels[:count]), "budgets": budgets})


def palette(blocks: int) -> list[tuple[int, int, int]]:
    """The colour of each count of blocks from 1 on."""
    return [tuple(int(255 * c) for c in colormaps[HEAT](n / blocks)[:3]) for n in range(1, blocks + 1)]


def _images(images: Tensor) -> str:
    """The strip of the images as a data URI."""
    side = max(images.shape[2:])
    if side > _SIDE:
        size = [round(s * _SIDE / side) for s in images.shape[2:]]
        images = functional.interpolate(images, size, mode="bilinear", antialias=True)
    pixels = (255 * images.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()  # [B, H, W, 3]
    return _uri(Image.fromarray(np.concatenate(pixels, axis=1)), "PNG" if side <= _LOSSLESS else "JPEG")


def _ponder(masks: Sequence[Tensor], count: int, size: tuple[int, int], blocks: int) -> str:
    """The strip of one budget's ponder maps as a data URI."""
    counts = ponder_map([mask[:count] for mask in masks], size).cpu().numpy().astype(np.uint8)  # [B, h, w]
    strip = Image.fromarray(np.concatenate(counts, axis=1)).convert("P")
    strip.putpalette([0, 0, 0, *(channel for colour in palette(blocks) for channel in colour)])
    return _uri(strip, "PNG", transparency=0)


def _uri(image: Image.Image, form: str, **options: object) -> str:
    """The picture as text that a page can hold."""
    data = io.BytesIO()
    image.save(data, form, quality=85, optimize=True, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
