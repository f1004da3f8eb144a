"""An animated picture: the same images at one budget after the other."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bdsa.report.pictures.masks import WRONG, MaskColumn, verdict
from bdsa.report.pictures.ponder import overlay, overlay_colours, ponder_map
from bdsa.report.pictures.sheet import (
    LARGE,
    MARGIN,
    SMALL,
    Sheet,
    as_bytes,
    colour_bar,
    count_ticks,
    enlarge,
    fitting,
    line_height,
    used,
)

_CELL = 180      # pixels of an image, at least
_ROW = 4         # images side by side, at most
_GAP = 12
_SECONDS = 1.2   # that each budget is seen for


def animation(images: Tensor, columns: Sequence[MaskColumn], path: Path, *, labels: Sequence[str | None],
              max_images: int = 8) -> None:
    """Write a GIF with a frame a budget: every image under its ponder map, the budget and the fraction above them.

    Args:
        images: float [B, 3, H, W] in 0..1.
        columns: what the network did at each budget, in the order of the frames.
        path: the GIF file; its folder is made.
        labels: the true class of each image, as it should be read; None where it is not known.
        max_images: number of images shown, the first ones.
    """
    images = images[:max_images].float().cpu().clamp(0, 1)
    frames = [_frame(images, column, labels) for column in columns]
    width, height = (max(side) for side in zip(*map(used, frames)))
    # Every frame has a palette of its own, rare colours among it; no dithering, which would look like masks.
    paletted = [Image.fromarray(frame[:height, :width]).quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2,
                                                                 dither=Image.Dither.NONE) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    paletted[0].save(path, save_all=True, append_images=paletted[1:], duration=round(1000 * _SECONDS), loop=0,
                     optimize=False)


def _frame(images: Tensor, column: MaskColumn, labels: Sequence[str | None]) -> np.ndarray:
    """uint8 [h, w, 3]; of one size for all budgets."""
    shown, _, height, width = images.shape
    factor = -(-_CELL // width)
    wide, tall, words = factor * width, factor * height, line_height(SMALL) + 10
    across = min(_ROW, shown)
    rows = -(-shown // across)
    most = len(column.masks)
    counts = ponder_map([mask[:shown] for mask in column.masks], (height, width)).cpu().numpy()
    sheet = Sheet(max(2 * MARGIN + across * (wide + _GAP) + 120, 480), 2 * MARGIN + 60 + rows * (tall + words + _GAP))
    sheet.write(f"budget {column.heading(shown)}", MARGIN, MARGIN, LARGE)
    start = MARGIN + line_height(LARGE) + 10
    for index in range(shown):
        left, top = MARGIN + index % across * (wide + _GAP), start + index // across * (tall + words + _GAP)
        sheet.paste(enlarge(as_bytes(overlay(images[index], counts[index], most)), tall, wide), left, top)
        if column.predictions is not None:
            predicted, label = column.predictions[index], labels[index]
            sheet.write(verdict(predicted, label)[:fitting(wide, SMALL)], left, top + tall + 5, SMALL,
                        color=WRONG if label not in (None, predicted) else "black")
    colour_bar(sheet, overlay_colours(most), MARGIN + across * (wide + _GAP) + 10, start, min(tall * rows, 320),
               count_ticks(most, min(1, most - 1)), "blocks")
    return sheet.pixels()
