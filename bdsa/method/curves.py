"""Any budget from those that were trained: an offset on a trained budget's thresholds (docs/method.md, section 8).

Masks rank the positions and the threshold says how many of them run, so a trained budget's masks serve the budgets
above it too once their thresholds are moved, with norms that go over to the next trained budget's on the way. Where
that answers far worse, the next one's masks and norms serve, with thresholds moved down. Curves say how far, and
which: they are measured on training images, after training. What else was tried is in experiments/LOG.md.
"""
from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bdsa.method.norms import Blend

MOST_POINTS = 1000
SHARES = 4  # between two trained budgets norms are blended in quarters: each blend is a network to pack
NEAR = 0.01  # of a fraction


@dataclass(frozen=True)
class Point:
    """Where a network runs: at the masks and norms of a trained budget, with its thresholds moved.

    Attributes:
        name: of the trained budget; None: the dense network.
        offset: what is added to its mask logits.
        blend: norms in place of its own.
        budget: that is met there as a mean; None: not asked.
    """
    name: str | None
    offset: float = 0.0
    budget: float | None = None
    blend: Blend | None = None

    @property
    def norms(self) -> str | Blend | None:
        """Which norms the blocks use."""
        return self.blend or self.name


@dataclass(frozen=True)
class Curve:
    """What offsets on the mask logits of a trained budget give, as a mean over images.

    Attributes:
        offsets: ascending.
        fractions: the conditional fraction at each, ascending, with the blend that such a fraction has.
        blocks: each block's own fraction at each.
        images: how many it is the mean of.
        upwards: whether it serves the budgets up to the next trained one, with norms that go over to that one's on the
            way; else the next one does, with its thresholds moved down.

    Raises:
        ValueError: for what no measurement gives.
    """
    offsets: tuple[float, ...]
    fractions: tuple[float, ...]
    blocks: tuple[tuple[float, ...], ...]
    images: int
    upwards: bool = True

    def __post_init__(self) -> None:
        columns = (self.offsets, self.fractions, self.blocks)
        if len({*map(len, columns)}) != 1 or not 2 <= len(self.offsets) <= MOST_POINTS:
            raise ValueError("its points are too few, too many or not whole")
        numbers = (*self.fractions, *(f for row in self.blocks for f in row))
        if not all(0 <= f <= 1 for f in numbers) or not all(map(math.isfinite, self.offsets)):
            raise ValueError("a fraction is outside 0 to 1, or an offset is no number")
        if len({*map(len, self.blocks)}) != 1 or not self.blocks[0]:
            raise ValueError("it is not of the same blocks throughout")
        if not all(o1 < o2 and f1 <= f2 for (o1, f1), (o2, f2) in pairwise(zip(self.offsets, self.fractions))):
            raise ValueError("its offsets or fractions do not ascend")
        if isinstance(self.images, bool) or not isinstance(self.images, int) or self.images < 1:
            raise ValueError("it is of no images")
        if not isinstance(self.upwards, bool):
            raise ValueError("whether it serves upwards is neither true nor false")

    def reaches(self, fraction: float) -> bool:
        """Whether the fraction lies within what was measured, or so near that the difference is not seen."""
        return self.fractions[0] - NEAR <= fraction <= self.fractions[-1] + NEAR

    def offset_at(self, fraction: float) -> float:
        """The offset for a mean fraction.

        Between two points, and a little beyond the last ones, the log-odds of the fraction are taken to be linear,
        which they nearly are.
        """
        after = min(max(bisect_right(self.fractions, fraction), 1), len(self.fractions) - 1)
        low, high = (log_odds(f) for f in self.fractions[after - 1:after + 1])
        o1, o2 = self.offsets[after - 1:after + 1]
        return o1 + (o2 - o1) * (log_odds(fraction) - low) / (high - low) if high > low else o2

    def plain(self) -> dict[str, Any]:
        """Lists and numbers, for files; see `curve_of`."""
        return {"offsets": list(self.offsets), "fractions": list(self.fractions),
                "blocks": [list(row) for row in self.blocks], "images": self.images,
                "upwards": self.upwards}


def curve_of(plain: Mapping[str, Any]) -> Curve:
    """The curve that `Curve.plain` wrote.

    Raises:
        ValueError: for anything else.
    """
    try:
        return Curve(tuple(map(float, plain["offsets"])), tuple(map(float, plain["fractions"])),
                     tuple(tuple(map(float, row)) for row in plain["blocks"]), plain["images"],
                     plain.get("upwards", True))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("it is not offsets, fractions, blocks and images") from error


def log_odds(fraction: float) -> float:
    """Of a fraction, kept away from 0 and 1."""
    clipped = min(max(fraction, 1e-9), 1 - 1e-9)
    return math.log(clipped / (1 - clipped))



def share_at(fraction: float, own: float, following: float) -> float:
    """The share of the next trained budget's norms for a fraction between two trained ones: the nearest quarter."""
    return round(min(max((fraction - own) / (following - own), 0.0), 1.0) * SHARES) / SHARES

