"""What bdsa-benchmark what=latency shows: the table, notes and the picture of the speedup."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from bdsa.commands.benchmark.break_even import in_words as break_even_in_words
from bdsa.commands.benchmark.ways import in_words as ways_in_words
from bdsa.config.image_size import in_words
from bdsa.report.terminal import counted, print_whole

HEADINGS = ("precision", "density", "share of\ndense MACs", "ms", "rounds'\nspread", "speedup at the\nsame precision",
            "speedup over\nthe fastest", "efficiency", "logits off\nby, %")
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of the precisions


def latency_table(result: Mapping[str, Any]) -> Table:
    """Build the table: the dense engines, then a row a precision and budget; what is int8 is a section of its own.

    Args:
        result: the content of benchmark.json.
    """
    images = "synthetic masks" if result["masks"] == "synthetic" else f"its own masks on {result['images']}"
    pixels = f"{in_words(result['image_size'])} pixels"
    title = (f"{result['model']}, batch {result['batch_size']}, {pixels}, {images}, {result['execution']} execution\n"
             f"{result['processor']}, {counted(result['threads'], 'thread')}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="", title=title)
    int8 = "int8" in result["fastest"]
    table.add_column("", no_wrap=True)
    for heading in (*HEADINGS, *["speedup\nover int8"] * int8):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for quantised in (False, True):
        for peer in (peer for peer in result["peers"] if (peer["precision"] == "int8") == quantised):
            fastest = " (fastest)" if peer["title"] == result["fastest"]["any"]["title"] else ""
            table.add_row(f"dense, {peer['engine']}{fastest}", peer["precision"], "", "", f"{peer['ms']:.2f}",
                          spread(peer["rounds_ms"]), "", "", "", percent(peer["logits_apart"]))
        table.add_section()
    for row in result["rows"]:
        table.add_row(f"budget {row['budget']:g}", row["precision"], f"{row['density']:.3f}",
                      f"{100 * row['macs_ratio']:.1f} %", f"{row['ms']:.2f}", spread(row["rounds_ms"]),
                      ratio(row["speedup_same_precision"]), ratio(row["speedup"]), f"{row['efficiency']:.2f}",
                      percent(row["logits_apart"]), *[ratio(row["speedup_int8"])] * int8)
    return table


def ratio(value: float | None) -> str:
    """A speedup; a dash where there is nothing to compare with."""
    return "-" if value is None else f"{value:.2f}"


def percent(share: float) -> str:
    """A distance of logits in percent of their spread: two digits, and nothing below a thousandth."""
    return "0" if share < 5e-6 else f"{100 * share:.2g}"


def spread(rounds: Sequence[float]) -> str:
    """The middle half of the rounds, relative to their median: a program that ran meanwhile moves ends alone."""
    ordered = sorted(rounds)
    quarter = len(ordered) // 4
    return f"{100 * (ordered[-1 - quarter] - ordered[quarter]) / ordered[len(ordered) // 2]:.0f} %"


def notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know."""
    fastest = result["fastest"]["any"]["title"]
    found = [f"medians of {result['rounds']} rounds, in turns; the fastest dense engine is {fastest}; efficiency: of "
             f"the ideal speedup over it, dense over executed MACs; logits: their largest difference from float32's, "
             f"of their spread", *result["missing"]]
    if "int8" in result["fastest"] and any(row["precision"] == "int8" for row in result["rows"]):
        found.append("a budget in int8 is to be held against dense int8, the same precision; its efficiency is over "
                     "the fastest dense engine of all")
    found += [f"{peer['title']}: {peer['way']}" for peer in result["peers"] if peer["way"]]
    found += [break_even_in_words(crossed, result["execution"]) for crossed in result["break_even"]]
    found += map(ways_in_words, result["ways"])
    for row in (row for row in result["rows"] if row["decisions_differ"]):
        found.append(f"budget {row['budget']:g} in {row['precision']}: {100 * row['decisions_differ']:.2g} % of the "
                     f"masks' positions are decided otherwise than in float32")
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
    """Draw the measured and the ideal speedup over the density, with the budgets and the break-even points.

    Args:
        result: the content of benchmark.json, without where it is kept.
        path: the PNG file.
    """
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(1, color="0.4", linewidth=1)
    ordered = sorted(result["rows"], key=lambda row: row["density"])
    densest = max(row["density"] for row in ordered)
    precisions = list(dict.fromkeys(row["precision"] for row in result["rows"]))
    ideal = [row for row in ordered if row["precision"] == precisions[0]]
    axes.plot([row["density"] for row in ideal], [1 / row["macs_ratio"] for row in ideal], color="#E69F00",
              linestyle="--", marker="s", markersize=5, label="ideal: dense over executed MACs")
    top = max(1, *(1 / row["macs_ratio"] for row in ordered), *(row["speedup"] for row in ordered))
    for precision, colour in zip(precisions, COLOURS):
        rows = [row for row in ordered if row["precision"] == precision]
        axes.plot([row["density"] for row in rows], [row["speedup"] for row in rows], color=colour, marker="o",
                  markersize=6, label=f"measured, {result['execution']} execution in {precision}")
        for row in rows:
            below = row["speedup"] > 0.12 * top  # else it would lie on the axis
            axes.annotate(f"budget {row['budget']:g}: {row['speedup']:.2f}", (row["density"], row["speedup"]),
                          (-6, -13 if below else 8), textcoords="offset points", ha="right", fontsize=8, color=colour,
                          bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
        for crossed in result["break_even"]:
            if crossed["precision"] == precision and crossed["against"] == result["fastest"]["any"]["title"] \
                    and crossed["density"]:
                axes.plot(crossed["density"], 1, color=colour, marker="X", markersize=9, linestyle="none",
                          label=f"break-even in {precision}: density {crossed['density']:.2f}")
                densest = max(densest, crossed["density"])
    axes.set(xlabel="density: share of the positions that ran, mean over blocks",
             ylabel=f"speedup over {result['fastest']['any']['title']},\nthe fastest dense engine",
             title=f"{result['model']}, batch {result['batch_size']}, {counted(result['threads'], 'thread')}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, densest + 0.05)
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
