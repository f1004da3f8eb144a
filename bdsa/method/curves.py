"""Any budget from those that were trained: an offset on a trained budget's thresholds (docs/method.md, section 8).

Masks rank the positions and the threshold says how many of them run, so a trained budget's masks serve the budgets
above it too once their thresholds are moved, with norms that go over to the next trained budget's on the way. From
where that answers far worse, the next one's masks and norms serve, with thresholds moved down. Curves say how far,
and from where: they are measured on training images, after training. What else was tried is in experiments/LOG.md.
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
        crossover: the share of the way to the next trained budget, 0 to 1, up to which it serves the budgets between,
            with norms that go over to that one's on the way; beyond the next one does, with its thresholds moved down.

    Raises:
        ValueError: for what no measurement gives.
    """
    offsets: tuple[float, ...]
    fractions: tuple[float, ...]
    blocks: tuple[tuple[float, ...], ...]
    images: int
    crossover: float = 1.0

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
        if isinstance(self.crossover, bool) or not 0 <= self.crossover <= 1:
            raise ValueError("its crossover is no number from 0 to 1")

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

    def serves_to(self, own: float, following: float) -> float:
        """The largest budget between a curve's own and the next trained one that its own masks serve."""
        return at_share(own, following, self.crossover)

    def plain(self) -> dict[str, Any]:
        """Lists and numbers, for files; see `curve_of`."""
        return {"offsets": list(self.offsets), "fractions": list(self.fractions),
                "blocks": [list(row) for row in self.blocks], "images": self.images,
                "crossover": self.crossover}


def curve_of(plain: Mapping[str, Any]) -> Curve:
    """The curve that `Curve.plain` wrote, or an earlier version with `upwards`, which was all of the way or nothing.

    Raises:
        ValueError: for anything else.
    """
    try:
        crossover = plain["crossover"] if "crossover" in plain else {True: 1.0, False: 0.0}[plain.get("upwards", True)]
        return Curve(tuple(map(float, plain["offsets"])), tuple(map(float, plain["fractions"])),
                     tuple(tuple(map(float, row)) for row in plain["blocks"]), plain["images"],
                     crossover)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("it is not offsets, fractions, blocks and images") from error


def log_odds(fraction: float) -> float:
    """Of a fraction, kept away from 0 and 1."""
    clipped = min(max(fraction, 1e-9), 1 - 1e-9)
    return math.log(clipped / (1 - clipped))


def share_at(fraction: float, own: float, following: float) -> float:
    """The share of the next trained budget's norms for a fraction between two trained ones: the nearest quarter."""
    return next((step for step in range(SHARES) if fraction <= last_with(step, own, following)), SHARES) / SHARES


def last_with(step: int, own: float, following: float) -> float:
    """The largest budget between two trained ones that has so many quarters of the next one's norms."""
    return at_share(own, following, min((step + 0.5) / SHARES, 1.0))


def at_share(own: float, following: float, share: float) -> float:
    """What lies a share of the way from one trained budget to the next."""
    return own + share * (following - own)

