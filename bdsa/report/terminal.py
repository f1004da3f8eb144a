"""The table of results: one row a budget, legible in a terminal, a log file and a pipe."""
from __future__ import annotations

import math
import sys
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def human_count(value: float | None) -> str:
    """Return a count with three digits and its unit: 41_234_567 -> "41.2 M"; "-" for a missing one."""
    if value is None or not math.isfinite(value):
        return "-"
    for size, unit in _UNITS:
        # 999.9 k would round to 1000 k: from half a last digit below, the next unit is the right one.
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:g}"


def count_unit(value: float) -> tuple[float, str]:
    """The size and the letter of the unit of a count: 41_234_567 -> (1e6, "M"); (1, "") below a thousand."""
    return next(((size, unit) for size, unit in _UNITS if abs(value) >= size), (1.0, ""))


def print_whole(table: Table, file: TextIO | None = None) -> None:
    """Print a table to `file` (standard output): styled in a terminal, plain text elsewhere.

    It is never cut or wrapped to a width: where nothing says how wide the output is, rich
    takes 80 columns, and a narrow terminal folds long lines itself.
    """
    file = sys.stdout if file is None else file
    console = Console(file=file, force_terminal=file.isatty(), highlight=False)
    wide = console.options.update(width=10_000)
    console.width = max(console.width, Measurement.get(console, wide, table).maximum)
    console.print(table)


def counted(count: int, what: str) -> str:
    """1 worker, 2 workers."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def rate(value: float) -> str:
    """Images per second with three digits or more: 8.25, 82.5, 825, 8,251."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
