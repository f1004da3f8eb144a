"""What bdsa-benchmark what=latency shows: the table, notes and the picture of the speedup."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from bdsa.config.image_size import in_words
from bdsa.report.terminal import counted, print_whole


def latency_table(result: Mapping[str, Any]) -> Table:
    """Build the table: the dense engines, then a row a budget.

    Args:
        result: the content of benchmark.json.
    """
    images = "synthetic masks" if result["masks"] == "synthetic" else f"its own masks on {result['images']}"
    pixels = f"{in_words(result['image_size'])} pixels"
    title = (f"{result['model']}, batch {result['batch_size']}, {pixels}, float32, {images}, "
             f"{result['execution']} execution\n{result['processor']}, {counted(result['threads'], 'thread')}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="", title=title)
    table.add_column("", no_wrap=True)
    for heading in ("density", "share of\ndense MACs", "ms", "rounds'\nspread", "speedup", "efficiency"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for name, ms in result["peers"].items():
        best = " (fastest)" if name == result["best_peer"] else ""
        table.add_row(f"dense, {name}{best}", "", "", f"{ms:.2f}", spread(result["peer_rounds_ms"][name]), "", "")
    table.add_section()
    for row in result["rows"]:
        table.add_row(f"budget {row['budget']:g}", f"{row['density']:.3f}", f"{100 * row['macs_ratio']:.1f} %",
                      f"{row['ms']:.2f}", spread(row["rounds_ms"]), f"{row['speedup']:.2f}",
                      f"{row['efficiency']:.2f}")
    return table


def spread(rounds: Sequence[float]) -> str:
    """The middle half of the rounds, relative to their median: a program that ran meanwhile moves ends alone."""
    ordered = sorted(rounds)
    quarter = len(ordered) // 4
    return f"{100 * (ordered[-1 - quarter] - ordered[quarter]) / ordered[len(ordered) // 2]:.0f} %"


def break_even(rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Where the speedup crosses 1, between two rows, on the straight line between them; None if it does not.

    Returns:
        budget, density and macs_ratio.
    """
    ordered = sorted(rows, key=lambda row: row["density"], reverse=True)
    for dense, sparse in pairwise(ordered):
        if (dense["speedup"] - 1) * (sparse["speedup"] - 1) <= 0 and dense["speedup"] != sparse["speedup"]:
            part = (1 - dense["speedup"]) / (sparse["speedup"] - dense["speedup"])
            return {key: dense[key] + part * (sparse[key] - dense[key]) for key in ("budget", "density", "macs_ratio")}
    return None


def notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know."""
    found = [f"medians of {result['rounds']} rounds, in turns; speedup over the fastest dense engine, "
             f"{result['best_peer']}; efficiency: of the ideal speedup, dense over executed MACs", *result["missing"]]
    crossing = result["break_even"]
    if crossing is not None:
        found.append(f"as fast as dense at density {crossing['density']:.2f} (budget {crossing['budget']:.2f})")
    load, cores = result["load_before"], result["cores"]
    if load is not None and cores and load > 0.25 * cores:
        found.append(f"other programs were running (load {load:.1f} on {cores} cores): measure again without them")
    return found


def report(result: Mapping[str, Any], folder: Path) -> None:
    """Print the table, notes and where everything is kept."""
    print()
    print_whole(latency_table(result))
    for note in notes(result):
        print(f"note: {note}")
    print(f"  results    {folder / 'benchmark.json'}\n  picture    {folder / 'speedup.png'}")


def speedup_picture(result: Mapping[str, Any], path: Path) -> None:
    """Draw the measured and the ideal speedup over the density, with the budgets and the break-even point.

    Args:
        result: the content of benchmark.json, without where it is kept.
        path: the PNG file.
    """
    rows = sorted(result["rows"], key=lambda row: row["density"])
    density = [row["density"] for row in rows]
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(1, color="0.4", linewidth=1)
    axes.plot(density, [1 / row["macs_ratio"] for row in rows], color="#E69F00", linestyle="--", marker="s",
              markersize=5, label="ideal: dense over executed MACs")
    axes.plot(density, [row["speedup"] for row in rows], color="#0072B2", marker="o", markersize=6,
              label=f"measured, {result['execution']} execution")
    top = max(1, *(1 / row["macs_ratio"] for row in rows), *(row["speedup"] for row in rows))
    for row in rows:
        below = row["speedup"] > 0.12 * top  # else it would lie on the axis
        axes.annotate(f"budget {row['budget']:g}: {row['speedup']:.2f}", (row["density"], row["speedup"]),
                      (-6, -13 if below else 8),
                      textcoords="offset points", ha="right", fontsize=8, color="#0072B2",
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
    crossing = result["break_even"]
    if crossing is not None:
        axes.plot(crossing["density"], 1, color="black", marker="X", markersize=9, linestyle="none",
                  label=f"break-even: density {crossing['density']:.2f}")
    axes.set(xlabel="density: share of the positions that ran, mean over blocks",
             ylabel=f"speedup over {result['best_peer']}, the fastest dense engine",
             title=f"{result['model']}, batch {result['batch_size']}, {counted(result['threads'], 'thread')}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(density) + 0.05)
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
