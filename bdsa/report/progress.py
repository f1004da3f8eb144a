"""One progress bar with an ETA on a terminal; silence elsewhere, where the log has a line an epoch."""
from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bdsa.ranks import is_main
from bdsa.runs.output import LastingOutput


def progress_bar() -> Progress:
    """A bar for `add_task(description, total=...)` and `advance(task)`; use it in a `with` statement."""
    output = LastingOutput(sys.stdout)
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("elapsed"),
                    TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), transient=True,
                    console=Console(file=output), disable=not (output.isatty() and is_main()), redirect_stdout=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 05 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
