"""A picture measured in pixels, on which images keep their pixels: nothing is resampled or blurred.

Images are pasted into an array; matplotlib only writes the text over it (its fonts know ✓ and ×).
"""
from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from bdsa.report.pictures.axes import write_pdf

DPI = 100
MARGIN = 24                             # white pixels around a sheet
SMALL, NORMAL, LARGE = 10.0, 12.0, 15.0  # points
BAR = 22                                # width of a scale of colours
_FRAME = 150                            # grey level of the line around an image


def line_height(size: float) -> int:
    """Pixels from one line of text to the next."""
    return round(1.35 * size * DPI / 72)


def fitting(pixels: int, size: float) -> int:
    """How many characters of ordinary text fit into so many pixels."""
    return max(1, int(pixels / (0.6 * size * DPI / 72)))


def enlarge(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour: [h, w, ...] -> [height, width, ...]; exact where the sides are multiples."""
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    return pixels[rows][:, columns]


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Colours in 0..1 as uint8."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


class Sheet:
    """A white picture of width x height pixels; (left, top) count from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.canvas = np.full((height, width, 3), 255, np.uint8)
        self._texts: list[tuple[int, int, str, dict]] = []

    def paste(self, pixels: np.ndarray, left: int, top: int, frame: bool = True) -> None:
        """Put an image [h, w, 3], uint8, with a thin line around it."""
        height, width = pixels.shape[:2]
        if frame:
            self.canvas[top - 1:top + height + 1, left - 1:left + width + 1] = _FRAME
        self.canvas[top:top + height, left:left + width] = pixels

    def write(self, text: str, left: int, top: int, size: float = SMALL, **style) -> None:
        """Write lines of text with their top at `top`; `style` is matplotlib's (ha, va, color, rotation)."""
        self._texts.append((left, top, text, {"ha": "left", "va": "top", "fontsize": size, **style}))

    def paragraph(self, text: str, left: int, top: int, width: int, size: float = SMALL, **style) -> int:
        """Write text wrapped to `width` pixels; returns where the next line would have its top."""
        lines = textwrap.wrap(text, fitting(width, size)) or [""]
        self.write("\n".join(lines), left, top, size, linespacing=1.1, **style)
        return top + len(lines) * line_height(size)

    def pixels(self) -> np.ndarray:
        """The whole sheet with its texts: uint8 [height, width, 3]."""
        figure = self._figure(*self.canvas.shape[:2])
        figure.figimage(self.canvas)
        agg = FigureCanvasAgg(figure)
        agg.draw()
        return np.asarray(agg.buffer_rgba())[..., :3]

    def save(self, path: Path) -> None:
        """Write the PNG file and the same as PDF, without the white rows and columns that nothing reached."""
        drawn = self.pixels()
        width, height = used(drawn)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[:height, :width]).save(path)
        figure = self._figure(height, width)
        axes = figure.add_axes((0, 0, 1, 1), zorder=-1)  # a PDF has no pixels for figimage
        axes.imshow(self.canvas[:height, :width], interpolation="none", aspect="auto")
        axes.set_axis_off()
        write_pdf(figure, path.with_suffix(".pdf"))

    def _figure(self, height: int, width: int) -> Figure:
        """A figure of so many pixels, with the texts and nothing else."""
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        for left, top, text, style in self._texts:
            # File and class names are shown as they are: a $ in one starts no formula.
            figure.text(left / width, 1 - top / height, text, parse_math=False, **style)
        return figure


def used(pixels: np.ndarray) -> tuple[int, int]:
    """Width and height of what is not white in [h, w, 3], with a margin."""
    rows, columns = ((pixels < 255).any(axis=axes).nonzero()[0] for axes in ((1, 2), (0, 2)))
    height, width = pixels.shape[:2]
    return min(width, int(columns[-1]) + MARGIN), min(height, int(rows[-1]) + MARGIN)


def colour_bar(sheet: Sheet, colours: Colormap, left: int, top: int, height: int, ticks: dict[float, str],
               title: str = "", line: tuple[float, tuple[int, int, int]] | None = None) -> None:
    """Draw the scale of a colour map, 1 at the top.

    Args:
        ticks: value in 0..1 -> what is written beside it.
        line: a value and the colour of a line there.
    """
    scale = as_bytes(colours(np.linspace(1, 0, height)[:, None].repeat(BAR, 1))[..., :3])
    if line is not None:
        middle = round((1 - line[0]) * (height - 1))
        scale[middle - 1:middle + 1] = line[1]
    sheet.paste(scale, left, top)
    sheet.write(title, left, top - 6, va="bottom")
    for value, text in ticks.items():
        sheet.write(text, left + BAR + 8, top + round((1 - value) * (height - 1)), va="center_baseline")


def count_ticks(most: int, least: int = 0) -> dict[float, str]:
    """Ticks of a scale from `least` to `most` blocks, whole numbers."""
    return {(step - least) / (most - least): f"{step:.0f}"
            for step in MaxNLocator(8, integer=True).tick_values(least, most) if least <= step <= most}
