"""How sure a measured top-1 is, and an axis on which chance does not look like a law."""
from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)  # 95 %, both sides
_LEAST = 5.0   # points that an axis of top-1 spans, at least
_TIMES = 4.0   # and so many times its longest interval


def wilson(top1: float, images: int) -> tuple[float, float]:
    """The 95 % interval by Wilson's score of a top-1 that was measured on so many images; all in percent.

    Unlike the normal approximation it stays within 0 and 100, and has a length where all images were right.
    """
    if images <= 0:
        raise ValueError(f"an interval needs at least one image, not {images}")
    share, weight = top1 / 100, _Z ** 2 / images
    middle = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def accuracy_range(intervals: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The ends of an axis of top-1, percent, that holds every interval (low, high) with room around it.

    It spans 5 points or more, and four times the longest interval: a difference that may be chance is then small
    on it. It lies within 0 and 100.
    """
    intervals = list(intervals)
    if not intervals:
        return 0.0, 100.0
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    longest = max(high - low for low, high in intervals)
    span = min(100.0, max(1.2 * (high - low), _LEAST, _TIMES * longest))
    top = min(100.0, max(span, (low + high + span) / 2))
    return top - span, top
