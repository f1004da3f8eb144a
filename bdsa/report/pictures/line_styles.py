"""Colours and markers of plotted lines, told apart by every eye and without the colour too."""
from __future__ import annotations

from typing import Any

from matplotlib import colormaps

# Okabe-Ito without its yellow, which is too pale for a line on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
HEAT = "viridis"


def line_styles(count: int, ordered: bool = False) -> list[dict[str, Any]]:
    """Colour and marker of `count` lines.

    Args:
        ordered: the lines stand for values of a scale, such as budgets: from dark to light, but not to the yellow
            that is too pale on white.
    """
    if count <= len(OKABE_ITO) and not ordered:
        colours: list[Any] = list(OKABE_ITO[:count])
    else:
        colours = [colormaps[HEAT](0.8 * index / max(1, count - 1)) for index in range(count)]
    return [{"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
            for index, colour in enumerate(colours)]
