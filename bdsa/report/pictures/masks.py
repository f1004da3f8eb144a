"""The sheet of masks: images in rows, budgets in columns, and over each image how many blocks ran where."""
from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from bdsa.budgets import Budget
from bdsa.report.pictures.axes import new_figure, save
from bdsa.report.pictures.ponder import overlay, overlay_colours, ponder_map

WRONG = "#D55E00"  # Okabe-Ito's vermilion
_CELL = 1.7  # inches of one square of a sheet: at 150 dpi a 224-pixel image is shown whole


@dataclass
class MaskColumn:
    """What a network did to B images at one budget.

    Attributes:
        budget: below 1.
        masks: of each block, bool [B, 1, h, w].
        fractions: the conditional fraction of each image.
        predictions: the class predicted for each image, as it should be read.
    """
    budget: Budget
    masks: Sequence[Tensor]
    fractions: Sequence[float]
    predictions: Sequence[str] | None = None

    def heading(self, count: int) -> str:
        """The budget, and the conditional fraction of the first `count` images: 0.3 · fraction 0.31."""
        shown = self.fractions[:count]
        return f"{self.budget:g} · fraction {sum(shown) / len(shown):.2f}"


def mask_picture(images: Tensor, columns: Sequence[MaskColumn], path: str | Path, *, names: Sequence[str],
                 labels: Sequence[str | None] | None = None, max_images: int = 8, pdf: bool = True) -> None:
    """Draw a sheet of images, a row each: the image, then a column a budget with the ponder map over it.

    All maps share one scale, from one block to all of them.

    Args:
        images: float [B, 3, H, W] in 0..1, already un-normalised.
        columns: what the network did at each budget.
        path: the PNG file.
        names: what to call each image, such as its file name, B of them.
        labels: the true class of each image, as it should be read, B of them; None where it is not known.
        max_images: number of images drawn, the first ones.
        pdf: whether to write the sheet as PDF too.
    """
    if not columns:
        raise ValueError("a mask picture needs the masks of at least one budget")
    images = images[:max_images].detach().float().cpu().clamp(0, 1)
    shown, _, height, width = images.shape
    most = max(len(column.masks) for column in columns)

    figure = new_figure(_CELL * (1 + len(columns)) + 2.4, (_CELL * height / width + 0.25) * shown + 0.6, "compressed")
    grid = figure.subplots(shown, 1 + len(columns), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color="0.6", linewidth=0.6)
    for axes, image, name, label in zip(grid[:, 0], images, names, labels or [None] * shown):
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        caption = textwrap.fill(_short(name, 32), 16) + ("" if label is None else f"\n{_short(label, 16)}")
        axes.set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
    grid[0, 0].set_title("budget", fontsize=10, loc="right", color="0.35")
    for place, column in enumerate(columns, 1):
        counts = ponder_map([mask[:max_images] for mask in column.masks], (height, width)).cpu().numpy()
        grid[0, place].set_title(column.heading(shown), fontsize=10)
        for row, axes in enumerate(grid[:, place]):
            axes.imshow(overlay(images[row], counts[row], most), interpolation="nearest")
            if column.predictions is not None:
                _write_prediction(axes, column.predictions[row], None if labels is None else labels[row])
    scale = ScalarMappable(Normalize(min(1, most - 1), most), overlay_colours(most))
    bar = figure.colorbar(scale, ax=grid, shrink=min(1.0, 3 / shown), aspect=20, pad=0.01,
                          label=f"blocks that ran, of {most}; grey: none")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path, pdf=pdf)


def verdict(predicted: str, label: str | None) -> str:
    """The prediction, marked as right or wrong where the class is known."""
    return predicted if label is None else f"{'✓' if predicted == label else '✗'} {predicted}"


def _write_prediction(axes: Axes, predicted: str, label: str | None) -> None:
    axes.set_xlabel(_short(verdict(predicted, label), 24), fontsize=8, labelpad=2, parse_math=False,
                    color=WRONG if label not in (None, predicted) else "black")


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length - 3]}..."
