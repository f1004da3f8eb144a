"""The one look of all plots: their grid, their ticks, the density of blocks, and the files that they become."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Formatter, PercentFormatter

from bdsa.report.terminal import count_unit

GREY = "0.45"


def new_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """A figure of so many inches that belongs to nobody: pyplot keeps global state and may look for a screen."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path, *, dpi: int = 150, pdf: bool = True) -> None:
    """Write a PNG file and, unless `pdf` is false, the same as PDF beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    framing = {"dpi": dpi, "bbox_inches": "tight", "pad_inches": 0.1}
    figure.savefig(path, **framing)
    if pdf:
        write_pdf(figure, path.with_suffix(".pdf"), **framing)


def write_pdf(figure: Figure, path: Path, **framing: Any) -> None:
    """Write a PDF, its fonts embedded as TrueType, which publishers ask for; without a date, so that it is the same
    for the same figure."""
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(path, metadata={"CreationDate": None}, **framing)


def finish(axes: Axes) -> None:
    """A pale grid behind what is drawn, and no box around it."""
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


class CountFormatter(Formatter):
    """Ticks of counts, all in the unit of the largest: 0, 10 M, 20 M."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        size, unit = count_unit(max(map(abs, self.locs), default=x))
        return f"{x / size:g} {unit}".rstrip() if x else "0"


def draw_densities(axes: Axes, densities: Mapping[float, Sequence[float]], styles: Mapping[float, dict[str, Any]],
                   stages: Sequence[str] = (), room: int = 40) -> None:
    """Draw the share of positions that each block ran at: a line a budget, a tick a block, counted from 1.

    Args:
        densities: budget -> density of each block, 0..1.
        styles: budget -> how its line looks.
        stages: the stage of each block, where it is known: named above the plot.
        room: how many ticks can have a number.
    """
    blocks = max(map(len, densities.values()))
    for budget, values in densities.items():
        axes.plot(range(1, len(values) + 1), [100 * value for value in values], label=f"budget {budget:g}",
                  **styles[budget])
    step = next(step for step in (1, 2, 5, 10, 20, 50, blocks) if blocks <= room * step)
    axes.xaxis.set_major_locator(FixedLocator([b for b in range(1, blocks + 1) if b % step == 0 or step == 1]))
    axes.xaxis.set_minor_locator(FixedLocator(range(1, blocks + 1)))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    axes.set(xlim=(0.5, blocks + 0.5), ylim=(-3, 103), xlabel="block", ylabel="positions that ran")
    finish(axes)
    first = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for start, end in zip(first, [*first[1:], len(stages)]):
        if start:
            axes.axvline(start + 0.5, color="0.7", linewidth=0.8)
        axes.text((start + end + 1) / 2, 1.02, stages[start], transform=axes.get_xaxis_transform(), ha="center",
                  fontsize="small", color=GREY)
