"""The table of results: one row a budget."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.table import Table

from bdsa.report.terminal import human_count, print_whole


def results_table(rows: Sequence[Mapping[str, Any]], *, dense_macs: float, parameters: int) -> Table:
    """Build the table of results, from the smallest budget to the largest.

    Args:
        rows: a row a budget: name, budget, top1 (percent), conditional_fraction, macs (a picture,
            mean over the images), images, and where they were measured top5 (percent), latency_ms and speedup. A
            value that is missing or None is shown as "-".
        dense_macs: MACs of the dense network on one picture, for the column with the share of it.
        parameters: number of parameters of the whole network, all budgets together.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="",
                  title=f"{human_count(parameters)} parameters, {human_count(dense_macs)} MACs dense")
    table.add_column("budget", no_wrap=True)
    ranked = any(row.get("top5") is not None for row in rows)
    for heading in ("top-1 %", *["top-5 %"] * ranked, "conditional\nfraction", "MACs", "share of\ndense MACs",
                    "images"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    timed = any(row.get("latency_ms") is not None for row in rows)
    for heading in ("latency\nms", "speedup") if timed else ():
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in sorted(rows, key=lambda row: row["budget"]):
        macs = row.get("macs")
        share = None if macs is None else 100 * macs / dense_macs
        times = [_number(row.get("latency_ms"), ".2f"), _number(row.get("speedup"), ".2f")] if timed else []
        table.add_row(f"{row['budget']:<5g} {row['name']}", _number(row.get("top1"), ".2f"),
                      *[_number(row.get("top5"), ".2f")] * ranked, _number(row.get("conditional_fraction"), ".3f"),
                      human_count(macs), _number(share, ".1f", " %"), _number(row.get("images"), ",d"), *times)
    return table


def print_table(rows: Sequence[Mapping[str, Any]], *, dense_macs: float, parameters: int,
                file: TextIO | None = None) -> None:
    """Print `results_table` to `file` (standard output)."""
    print_whole(results_table(rows, dense_macs=dense_macs, parameters=parameters), file)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
