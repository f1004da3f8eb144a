"""Pictures of one image at one budget: ponder map, mask of every block, soft mask of every block.

Blue is how surely a block runs at a position (a binary mask has the two ends of that scale only) or
the share of positions where it does; orange is the border of where it runs; viridis, as in
`bdsa.report.pictures.ponder`, counts blocks. Shape legend: S side of the image, h and w of a block's mask.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from torch import Tensor

from bdsa.report.pictures.line_styles import HEAT
from bdsa.report.pictures.ponder import overlay, ponder_map
from bdsa.report.pictures.sheet import (
    BAR,
    LARGE,
    MARGIN,
    NORMAL,
    SMALL,
    Sheet,
    as_bytes,
    colour_bar,
    count_ticks,
    enlarge,
    line_height,
)

_BLUE, _HEAT = colormaps["Blues"], colormaps[HEAT]
_ORANGE = (213, 94, 0)     # Okabe-Ito's vermilion: far from the blues for every eye
_CELL, _LARGE_CELL = 200, 440  # pixels of a mask, and of a ponder map, at least
_GAP = 28
_ROW = 8                   # masks side by side, at most


@dataclass(frozen=True)
class BlockLabel:
    """What a picture calls a block: "layer2.1", and its stage, whose blocks stand together."""
    name: str
    stage: str


@dataclass
class Seen:
    """What is drawn of one image at one budget.

    Attributes:
        image: float [3, S, S] in 0..1, as the network sees it but not normalised.
        masks: a list over blocks of bool [h, w].
        soft_masks: a list over blocks of float [h, w] in 0..1, at least 0.5 where the block ran.
        title: which image and budget. caption: what came of it.
    """
    image: Tensor
    masks: Sequence[Tensor]
    soft_masks: Sequence[Tensor]
    title: str
    caption: str


def ponder_sheet(seen: Seen, path: Path) -> None:
    """Draw the image, the ponder map over it and the ponder map alone, with the scale of its colours."""
    height, width = seen.image.shape[1:]
    factor = -(-_LARGE_CELL // width)
    most = len(seen.masks)
    count = ponder_map([mask[None, None] for mask in seen.masks], (height, width))[0].numpy()
    panels = [("as the network sees it", _image_pixels(seen.image)),
              ("where it ran; grey: no block", as_bytes(overlay(seen.image, count, most))),
              (f"blocks that ran: {count.mean():.1f} of {most} on average", as_bytes(_HEAT(count / most)[..., :3]))]
    sheet = Sheet(2 * MARGIN + 3 * factor * width + 3 * _GAP + 110, 2 * MARGIN + factor * height + 130)
    top = _heading(sheet, seen) + line_height(NORMAL)
    left = MARGIN
    for title, pixels in panels:
        sheet.write(title, left, top - line_height(NORMAL), NORMAL)
        sheet.paste(enlarge(pixels, factor * height, factor * width), left, top + 6)
        left += factor * width + _GAP
    colour_bar(sheet, _HEAT, left, top + 6, factor * height, count_ticks(most), "blocks")
    sheet.save(path)


def mask_sheet(seen: Seen, blocks: Sequence[BlockLabel], path: Path) -> None:
    """Draw the binary mask of every block, a stage a row (or several), with its density."""
    pixels = [as_bytes(_BLUE(mask.numpy().astype(float))[..., :3]) for mask in seen.masks]
    _block_sheet(seen, blocks, pixels, path, soft=False)


def soft_mask_sheet(seen: Seen, blocks: Sequence[BlockLabel], path: Path) -> None:
    """Draw sigmoid(logits) of every block, with the border of where it ran: 0.5 and above."""
    pixels = [as_bytes(_BLUE(soft.numpy())[..., :3]) for soft in seen.soft_masks]
    _block_sheet(seen, blocks, pixels, path, soft=True)


def _block_sheet(seen: Seen, blocks: Sequence[BlockLabel], pixels: list[np.ndarray], path: Path, soft: bool) -> None:
    """Lay out one picture a block, a stage to a row, beside the image and the legend."""
    rows = _rows([block.stage for block in blocks])
    tallest, widest = pixels[0].shape[:2]
    factor = -(-_CELL // widest)
    height, width = factor * tallest, factor * widest
    words = 2 * line_height(SMALL) + 6
    columns = max(map(len, rows))
    total = 2 * MARGIN + (1 + columns) * (width + _GAP)
    sheet = Sheet(max(total, 760), 2 * MARGIN + 90 + max(len(rows) * (height + words + 14), height + words + 250))
    start = _heading(sheet, seen)
    sheet.paste(enlarge(_image_pixels(seen.image), height, width), MARGIN, start)
    sheet.write("as the network sees it", MARGIN, start + height + 6)
    _legend(sheet, MARGIN, start + height + words + 20, width, soft)
    for row, members in enumerate(rows):
        top = start + row * (height + words + 14)
        for column, index in enumerate(members):
            left = MARGIN + (1 + column) * (width + _GAP)
            mask = seen.masks[index].numpy()
            shown = enlarge(pixels[index], height, width)
            if soft:
                shown = np.where(_border(enlarge(mask, height, width))[..., None], np.uint8(_ORANGE), shown)
            sheet.paste(shown, left, top)
            sheet.write(f"{blocks[index].name}  {mask.shape[0]}×{mask.shape[1]}\nran at {_percent(mask.mean())}",
                        left, top + height + 5, linespacing=1.2)
    sheet.save(path)


def _rows(stages: Sequence[str]) -> list[list[int]]:
    """Indices of the blocks by rows: a stage begins a row, and a long one takes several of equal length."""
    rows = []
    for stage in dict.fromkeys(stages):
        members = [index for index, name in enumerate(stages) if name == stage]
        length = -(-len(members) // -(-len(members) // _ROW))
        rows += [members[k:k + length] for k in range(0, len(members), length)]
    return rows


def _legend(sheet: Sheet, left: int, top: int, width: int, soft: bool) -> None:
    entries = [(as_bytes(np.array(_BLUE(value)[:3])), word) for value, word in ((1.0, "ran"), (0.0, "skipped"))]
    if soft:
        colour_bar(sheet, _BLUE, left, top + 24, 110, {0.0: "0", 0.5: "0.5", 1.0: "1"}, "sigmoid(logits)",
                   line=(0.5, _ORANGE))
        entries, top = [(np.uint8(_ORANGE), "border of where it\nran: 0.5 and above")], top + 160
    for colour, word in entries:
        sheet.paste(np.broadcast_to(colour, (BAR, BAR, 3)), left, top)
        sheet.write(word, left + BAR + 8, top + 2)
        top += BAR + 10


def _heading(sheet: Sheet, seen: Seen) -> int:
    """Title and caption; returns the top of what comes below."""
    width = sheet.canvas.shape[1] - 2 * MARGIN
    top = sheet.paragraph(seen.title, MARGIN, MARGIN, width, LARGE)
    return sheet.paragraph(seen.caption, MARGIN, top + 2, width, NORMAL) + 16


def _border(mask: np.ndarray) -> np.ndarray:
    """The pixels on both sides of every step between True and False: bool [H, W] -> bool [H, W]."""
    edge = np.zeros_like(mask)
    for axis in (0, 1):
        step = np.diff(mask, axis=axis)
        low, high = [slice(None)] * 2, [slice(None)] * 2
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        edge[tuple(low)] |= step
        edge[tuple(high)] |= step
    return edge


def _image_pixels(image: Tensor) -> np.ndarray:
    """float [3, H, W] in 0..1 -> uint8 [H, W, 3]."""
    return as_bytes(image.permute(1, 2, 0).numpy())


def _percent(share: float) -> str:
    """Without a round 0 or 100 % for a block that ran somewhere, or not everywhere."""
    return f"{100 * share:.1f} %" if 0 < share < 0.01 or 0.99 < share < 1 else f"{100 * share:.0f} %"
