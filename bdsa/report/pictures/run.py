"""Plots of a run: how it trained, accuracy over cost, and the density of its blocks."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bdsa.budgets import Budget
from bdsa.report.intervals import accuracy_range, wilson
from bdsa.report.pictures.axes import GREY, CountFormatter, draw_densities, finish, new_figure, save
from bdsa.report.pictures.line_styles import line_styles
from bdsa.runs.metrics import flat

_NARROW = 5  # budgets whose labels have room for the fraction, at most


def density_picture(densities: Mapping[float, Sequence[float]], path: str | Path, *, stages: Sequence[str] = (),
                    images: int | None = None) -> None:
    """Draw the share of positions that each block ran at, a line a budget.

    Args:
        densities: budget -> mean density of each block, 0..1, from the first block on.
        stages: the stage of each block, where it is known.
        images: how many images it is the mean of.
    """
    blocks = max(map(len, densities.values()))
    figure = new_figure(min(max(6.5, 2.5 + 0.3 * blocks), 14), 3.8)
    axes = figure.subplots()
    draw_densities(axes, densities, dict(zip(densities, line_styles(len(densities), ordered=True))), stages)
    if images is not None:
        axes.set_xlabel(f"block (mean of {images:,} image{'s' * (images > 1)})")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def curves_picture(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw a run's epochs: top-1 and conditional fraction per budget (dashed: the budget), loss terms.

    Args:
        rows: what `MetricsFile.read` returns. A later row of the same epoch replaces an earlier one.
    """
    figure = new_figure(13.0, 4.2)
    top1, fraction, loss = figure.subplots(1, 3)
    evals = [row for row in rows if row.get("kind") == "eval"]
    budgets = sorted({row["budget"] for row in evals})
    for budget, style in zip(budgets, line_styles(len(budgets), ordered=True)):
        own = [row for row in evals if row["budget"] == budget and row.get("weights") != "ema"]
        averaged = [row for row in evals if row["budget"] == budget and row.get("weights") == "ema"]
        _curve(top1, own, "top1", label=f"budget {budget:g}", **style)
        if averaged:
            _curve(top1, averaged, "top1", label=f"{budget:g}, averaged", **{**style, "linestyle": ":", "marker": None})
        _curve(fraction, own, "conditional_fraction", **style)
        fraction.axhline(budget, color=style["color"], linestyle="--", linewidth=1)
    trains = [flat(row) for row in rows if row.get("kind") == "train"]
    terms = dict.fromkeys(key for row in trains for key in row if key.split("/")[0] == "loss")
    for term, style in zip(terms, line_styles(len(terms))):
        _curve(loss, trains, term, label=term.removeprefix("loss/"), **style)
    top1.set(title="top-1, %", xlabel="epoch")
    fraction.set(title="conditional fraction (dashed: the budget)", xlabel="epoch", ylim=(0, 1.05))
    loss.set(title="loss terms, training", xlabel="epoch")
    for axes in (top1, fraction, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        finish(axes)
        if axes is not fraction and axes.lines:  # its lines are those of the first panel
            axes.legend(frameon=False, fontsize=9)
        elif not axes.lines:
            axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", color=GREY)
    save(figure, path)


def accuracy_cost_picture(rows: Sequence[Mapping[str, Any]], path: str | Path, *,
                          trained: Collection[float] | None = None, key: str = "macs") -> None:
    """Draw top-1 over MACs, a point a budget with its 95 % interval; budgets between trained ones as dots on the line.

    Args:
        rows: results, a row a budget: budget, top1 (percent), conditional_fraction, macs (mean over the images),
            images.
        key: the cost: "macs", "latency_ms" or "budget".
        trained: the budgets that the network was trained for; the dense path of one that was not stands hollow,
            and off the line. None: all.
    """
    rows = sorted((row for row in rows if None not in (row.get(key), row["top1"])), key=lambda row: row[key])
    intervals = [wilson(row["top1"], row["images"]) for row in rows]
    figure = new_figure(6.5, 4.4)
    axes = figure.subplots()
    on_line = [row for row in rows if trained is None or row["budget"] in trained or not Budget(row["budget"]).is_dense]
    axes.plot([row[key] for row in on_line], [row["top1"] for row in on_line], color="0.6", zorder=1)
    for row, (low, high), style in zip(rows, intervals, line_styles(len(rows), ordered=True)):
        if row in on_line and trained is not None and row["budget"] not in trained:
            axes.plot(row[key], row["top1"], marker="o", markersize=3.5, color=style["color"])
            continue
        known = row in on_line
        axes.errorbar(row[key], row["top1"], [[row["top1"] - low], [high - row["top1"]]], capsize=3, clip_on=False,
                      **{**style, "linestyle": "none", "markersize": 8}, linewidth=1.2,
                      markerfacecolor=style["color"] if known else "white")
        axes.annotate(_label(row, known, len(rows) <= _NARROW), (row[key], low), (0, -7), ha="center", va="top",
                      textcoords="offset points", fontsize=9, linespacing=1.3)
    low, high = accuracy_range(intervals)
    axes.set(xlabel={"macs": "MACs an image (mean)", "latency_ms": "latency, ms"}.get(key, key),
             ylabel="top-1, % (bars: 95 % intervals)",
             ylim=(low - 0.1 * (high - low), high))  # room for what stands below the lowest point
    axes.set_xlim(0, 1.1 * max((row[key] for row in rows), default=1.0))  # from 0: distances are shares of the cost
    if key == "macs":
        axes.xaxis.set_major_formatter(CountFormatter())
    finish(axes)
    save(figure, path)


def _label(row: Mapping[str, Any], trained: bool, wide: bool) -> str:
    """What stands below a point: its budget, and what there is room for."""
    lines = [f"{row['budget']:g}" + (" (dense)" if wide and Budget(row["budget"]).is_dense else "")]
    if wide and not trained:
        lines.append("not trained")
    elif wide and row.get("conditional_fraction") is not None and not Budget(row["budget"]).is_dense:
        lines.append(f"fraction {row['conditional_fraction']:.2f}")
    return "\n".join(lines)


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    by_epoch = {row["epoch"]: row[key] for row in rows if row.get(key) is not None}
    axes.plot(sorted(by_epoch), [by_epoch[epoch] for epoch in sorted(by_epoch)], **style)
