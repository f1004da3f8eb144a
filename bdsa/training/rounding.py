"""What another precision than float32 changes: the masks' decisions and the top-1."""
from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from bdsa.models.network import AdaptiveNetwork


def in_float32(network: AdaptiveNetwork) -> AdaptiveNetwork:
    """A copy in eval mode that computes in float32: a network keeps packed weights for one precision."""
    copied = copy.deepcopy(network).eval()
    copied.precision = "float32"
    return copied


def precision_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Sentences for below the table of an evaluation: a line a budget that was compared with float32.

    Args:
        results: the content of results.json.
    """
    for row in results["rows"]:
        if "reference_top1" in row:
            apart = row["top1"] - row["reference_top1"]
            yield (f"{row['name']}: precision={results['precision']} is {apart:+.2f} points of top-1 from float32's "
                   f"{row['reference_top1']:.2f} %, and {100 * row['decisions_differ']:.2g} % of the decisions differ")
