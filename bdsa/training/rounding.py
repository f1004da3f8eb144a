"""What another precision than float32 changes: the masks' decisions and the top-1."""
from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import precision_taken


def in_float32(network: AdaptiveNetwork) -> AdaptiveNetwork:
    """A copy in eval mode that computes in float32: a network keeps packed weights for one precision."""
    copied = copy.deepcopy(network).eval()
    copied.precision = "float32"
    return copied


def add_taken(rows: list[dict[str, Any]], network: AdaptiveNetwork) -> None:
    """Say in the rows of an evaluation on a CPU in which precision the network ran each: "auto" is one of two."""
    for row in rows:
        try:
            row["precision_taken"] = precision_taken(network, row["budget"])
        except UserError:  # nothing was made of its weights: it ran masked
            row["precision_taken"] = "float32"


def precision_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Sentences for below the table of an evaluation: a line a budget that was compared with float32.

    Args:
        results: the content of results.json.
    """
    for row in results["rows"]:
        if "reference_top1" in row:
            apart = row["top1"] - row["reference_top1"]
            taken = f" ({row['precision_taken']})" if "precision_taken" in row else ""
            yield (f"{row['name']}: precision={results['precision']}{taken} is {apart:+.2f} points of top-1 from "
                   f"float32's {row['reference_top1']:.2f} %, and {100 * row['decisions_differ']:.2g} % of the "
                   f"decisions differ")
