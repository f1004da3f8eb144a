"""Budgets between those that a run trained, as bdsa-evaluate measured them on the images of its results."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from bdsa.errors import UserError
from bdsa.runs import contents

_SAME = ("data", "split", "image_size", "classes", "model", "dense_macs")  # of images and network alike


def between_rows(folder: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of untrained budgets below 1, ascending, from the newest evaluations below a run's folder.

    Args:
        folder: the run's.
        results: the content of its results.json.
    """
    found: dict[float, dict[str, Any]] = {}
    paths = folder.glob(f"evaluations/*/{contents.RESULTS}")
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime, str(p))):
        try:
            made = contents.read_results(path.parent)
        except UserError:
            continue  # a report shows what there is
        if made is None or made.get("per_image") or made.get("cascade"):
            continue
        if any(made.get(key) != results.get(key) for key in _SAME):
            continue
        images = {row["images"] for row in results["rows"]}
        found |= {row["budget"]: row for row in made["rows"] if row["budget"] not in results["trained_budgets"]
                  and row["budget"] < 1 and row["images"] in images}
    return [found[budget] for budget in sorted(found)]
