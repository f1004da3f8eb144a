"""The published numbers beside measured ones: which source fits a table, and what it says of a model and budget."""
from __future__ import annotations

from functools import cache
from pathlib import Path

from bdsa.budgets import Budgets
from bdsa.config.targets import SHIPPED, read_rows, read_targets
from bdsa.errors import UserError
from bdsa.report.networks import DataTable, Network

PAPER = "Zampokas et al., BMVC 2024"
# Where the shipped numbers apply: what a data set of that name has. Part of the images would not compare.
_KNOWN = {"cifar10": {"classes": 10, "image_size": 32, "images": 10_000},
          "imagenet": {"classes": 1000, "image_size": 224, "images": 50_000}}


def choose_published(table: DataTable, asked: str) -> None:
    """Set a table's source of published numbers.

    Args:
        asked: "auto", "none", or a source as `awareness.targets` takes it.

    Raises:
        UserError: for a file that is not there.
    """
    if asked == "none":
        return
    if asked != "auto":
        _check_source(asked)
        table.published, table.why_published = asked, f"published={asked}"
        return
    results = next(r.results for n in table.networks for r in n.runs if r.results is not None)
    size = {"classes": results["classes"], "image_size": results["image_size"], "images": results["rows"][0]["images"]}
    for source, known in _KNOWN.items():
        named = results["data"] == source
        if (named or results["data"] == "folder") and size == known:
            table.published = source
            table.why_published = "the data set's name" if named else (
                f"a folder with {known['classes']:,} classes and {known['images']:,} images at {known['image_size']} "
                f"pixels is taken for it; published=none leaves them out")


def describe_source(table: DataTable, why: bool = True) -> str:
    """A sentence: whose numbers they are and, with `why`, for what reason these were taken."""
    reason = f"; {table.why_published}" if why else ""
    if table.published in _KNOWN:
        return (f"Published: {PAPER}, top-1 of the authors' networks for a single budget "
                f"(bdsa/config/published_targets/{table.published}.csv{reason}).")
    return f"Published: {table.published}{f' ({table.why_published})' if why else ''}."


def published_top1(table: DataTable, model: str, budget: float) -> float | None:
    """The published top-1 in percent, or None where there is no such number."""
    return None if table.published is None else _entry(table.published, model, budget)


def published_points(table: DataTable, network: Network) -> list[tuple[float, float, float]]:
    """(budget, MACs, top-1) of the published network.

    The source says no MACs: a point stands at those that this network needs at exactly that budget. MACs are a
    linear function of the conditional fraction, so that its measured rows say it.
    """
    line = cost_line(network)
    budgets = sorted({*table.budgets, *(n / 10 for n in range(1, 11))})
    points = [(b, published_top1(table, network.model, b)) for b in budgets]
    return [] if line is None else [(b, line[0] + line[1] * b, top1) for b, top1 in points if top1 is not None]


def cost_line(network: Network) -> tuple[float, float] | None:
    """(MACs outside of the conditional part, MACs of the conditional part), by the measured rows."""
    rows = {r["conditional_fraction"]: r["macs"] for run in network.runs if run.results is not None
            for r in run.results["rows"]}
    masked = sorted((f, m) for f, m in rows.items() if f < 1)  # the dense path runs no mask units
    ends = masked if len(masked) > 1 and masked[-1][0] - masked[0][0] > 0.05 else sorted(rows.items())
    if len(ends) < 2:
        return None
    (low, few), (high, many) = ends[0], ends[-1]
    slope = (many - few) / (high - low)
    return few - slope * low, slope


@cache
def _entry(source: str, model: str, budget: float) -> float | None:
    try:
        return read_targets(source, model, Budgets([budget]))[0]
    except UserError:  # no such row or column
        return None


def _check_source(source: str) -> None:
    """Raise UserError unless the source can be read: a model that it lacks is fine, a file that is no table is not."""
    if source in {p.stem for p in SHIPPED.glob("*.csv")}:
        return
    if Path(source).is_file():
        read_rows(source, Path(source))
    else:
        read_targets(source, "", Budgets([0.5]))  # which says what there is

