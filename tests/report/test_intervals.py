"""The interval of a measured top-1, and the axis that shows it."""
from __future__ import annotations

import pytest
from scipy.stats import binomtest

from bdsa.report.intervals import accuracy_range, wilson


@pytest.mark.parametrize("right, images", [(0, 50), (1, 50), (50, 50), (1946, 2000), (8975, 10_000), (38_000, 50_000)])
def test_the_interval_is_wilsons(right, images):
    expected = binomtest(right, images).proportion_ci(0.95, "wilson")
    assert wilson(100 * right / images, images) == pytest.approx([100 * expected.low, 100 * expected.high], abs=1e-9)
    with pytest.raises(ValueError, match="at least one image"):
        wilson(50.0, 0)


@pytest.mark.parametrize("intervals", [
    [wilson(t, 2000) for t in (97.15, 97.3, 97.45)], [wilson(t, 10_000) for t in (85.36, 89.75, 91.39)],
    [wilson(t, 50) for t in (10, 90)], [wilson(100, 20)], [(99.9, 99.9)], [(0.1, 0.1)], [(0, 100)],
    [wilson(69.8, 50_000)]])
def test_the_axis_holds_the_intervals_and_does_not_blow_up_chance(intervals):
    low, high = accuracy_range(intervals)
    assert 0 <= low <= min(a for a, _ in intervals) and max(b for _, b in intervals) <= high <= 100
    longest = max(b - a for a, b in intervals)
    assert high - low >= min(100, max(5, 4 * longest))


def test_six_images_of_two_thousand_take_a_small_part_of_the_axis():
    low, high = accuracy_range([wilson(100 * right / 2000, 2000) for right in (1943, 1949)])
    assert 0.3 / (high - low) < 0.06


def test_an_axis_without_points_is_the_whole_scale():
    assert accuracy_range([]) == (0, 100)
