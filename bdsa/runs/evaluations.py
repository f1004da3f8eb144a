"""What bdsa-evaluate measured of a run on the images of its results: budgets between, and its cascade."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bdsa.errors import UserError
from bdsa.runs import contents

_SAME = ("data", "split", "image_size", "classes", "model", "dense_macs", "weights_digest", "images_digest")
_PRECISION = "float32"  # of a training's results
_TIMES = ("latency_ms", "speedup")
_CONDITIONS = {"batch_size": 1, "threads": None, "processor": None, "execution": "auto", "precision": _PRECISION}


def between_rows(folder: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of untrained budgets below 1, ascending, from the newest evaluations below a run's folder.

    Args:
        folder: the run's.
        results: the content of its results.json.
    """
    return _by_budget(row for row in _rows(folder, results, cascade=False)
                      if row["budget"] not in results["trained_budgets"] and row["budget"] < 1)


def cascade_rows(folder: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the cascade, ascending by budget, from the newest evaluations of it; arguments as of `between_rows`."""
    return _by_budget(_rows(folder, results, cascade=True))


def _by_budget(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each budget, ascending; times of the run's conditions outlive a newer row without."""
    found: dict[float, dict[str, Any]] = {}
    for row in rows:
        kept = found.get(row["budget"], {})
        found[row["budget"]] = {**{key: kept[key] for key in _TIMES if key in kept}, **row}
    return [found[budget] for budget in sorted(found)]


def _rows(folder: Path, results: dict[str, Any], cascade: bool) -> Iterator[dict[str, Any]]:
    """Rows of the evaluations by one look or by a cascade, on as many of the same images, the newest last."""
    images = {row["images"] for row in results["rows"]}
    paths = folder.glob(f"evaluations/*/{contents.RESULTS}")
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime, str(p))):
        try:
            made = contents.read_results(path.parent)
        except UserError:
            continue  # a report shows what there is
        if made is None or made.get("per_image") or bool(made.get("cascade")) != cascade:
            continue
        if made.get("precision", _PRECISION) != results.get("precision", _PRECISION):
            continue
        if all(made.get(key) == results[key] for key in _SAME if key in results):  # old runs have no digests
            alike = _timed(made) == _timed(results)
            yield from (row if alike else {key: value for key, value in row.items() if key not in _TIMES}
                        for row in made["rows"] if row["images"] in images)


def _timed(results: dict[str, Any]) -> dict[str, Any]:
    """Under which conditions latencies were measured; those that do not say theirs are as a training's."""
    about = results.get("latency") or {}
    return {key: about.get(key, default) for key, default in _CONDITIONS.items()}
