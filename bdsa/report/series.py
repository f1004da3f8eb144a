"""What plots and page draw of a run: numbers by epoch and by block."""
from __future__ import annotations

from typing import Any

from bdsa.report.intervals import accuracy_range, wilson
from bdsa.report.networks import DataTable, Network, untrained_dense
from bdsa.report.published import published_points


def top1_range(table: DataTable, published: bool) -> tuple[float, float]:
    """The ends of an axis of top-1 with every error bar on it and, if asked for, the published points."""
    bars = [cell.top1_interval() for n in table.networks for b, cell in n.cells.items() if not untrained_dense(n, b)]
    bars += [wilson(row["top1"], row["images"]) for n in table.networks for row in (*n.between, *n.cascade)]
    points = [top1 for n in table.networks for *_, top1 in published_points(table, n)] if published else []
    return accuracy_range([*filter(None, bars), *zip(points, points)])


def bar_words(table: DataTable) -> str:
    """What the error bars of top-1 are."""
    found = {cell.deviation("top1") is None for n in table.networks for cell in n.cells.values() if cell.runs}
    return {frozenset({True}): "95 % intervals", frozenset({False}): "deviation over seeds"}.get(
        frozenset(found), "95 % intervals, or deviation over seeds")


def densities(network: Network) -> dict[float, list[float]]:
    """Budget -> share of positions of each block, mean over the runs that kept their masks."""
    found: dict[float, list[list[float]]] = {}
    for run in network.runs:
        kept = run.masks if run.results is not None else None
        for row in run.results["rows"] if kept else ():
            if row["budget"] in run.trained and row["name"] in kept["budgets"]:
                found.setdefault(row["budget"], []).append(kept["budgets"][row["name"]]["densities"])
    return {b: [sum(block) / len(block) for block in zip(*rows)] for b, rows in sorted(found.items())}


def density_images(network: Network) -> int | None:
    """How many images the densities are the mean of: a run's test split, or the few that bdsa-visualize showed."""
    return min((run.masks["measured"] for run in network.runs if run.results is not None and run.masks), default=None)


def evaluated(metrics: list[dict[str, Any]], budget: float, key: str) -> tuple[list[int], list[float]]:
    """Epochs and a number of a budget: of the averaged weights where there are any."""
    rows = [r for r in metrics if r.get("kind") == "eval" and r.get("budget") == budget and r.get(key) is not None]
    rows = [r for r in rows if r.get("weights") == "ema"] or rows
    by_epoch = {r["epoch"]: r[key] for r in rows}  # a later row of the same epoch replaces an earlier one
    return sorted(by_epoch), [by_epoch[e] for e in sorted(by_epoch)]


def trained_loss(metrics: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Epochs and the total loss."""
    by_epoch = {r["epoch"]: r["loss"]["total"] for r in metrics if r.get("kind") == "train"
                and isinstance(r.get("loss"), dict) and r["loss"].get("total") is not None}
    return sorted(by_epoch), [by_epoch[e] for e in sorted(by_epoch)]
