"""Two CSV files: csv/history.csv, a row an epoch, and csv/summary.csv, a row a number of the whole run."""
from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from bdsa.runs.files import write_text
from bdsa.runs.trackers.base import EpochTracker


class CsvTracker(EpochTracker):
    """The metrics as tables for spreadsheets; both files are written anew from the metrics file at each start.

    Args:
        folder: the run's folder.
        tolerance, pictures_every: see `EpochTracker`; a table holds no pictures.
    """

    def __init__(self, *, folder: str | Path, tolerance: float, pictures_every: int, **_: Any) -> None:
        super().__init__(tolerance, pictures_every=0)
        self.where = str(Path(folder) / "csv")
        self._history: list[dict[str, Any]] = []
        self._summary: dict[str, Any] = {}

    def _log_epoch(self, epoch: int, metrics: dict[str, Any], picture: Path | None) -> None:
        self._history.append({"epoch": epoch, **metrics})
        columns = list(dict.fromkeys(key for row in self._history for key in row))
        self._write("history.csv", columns, [[row.get(c, "") for c in columns] for row in self._history])

    def _summarise(self, metrics: dict[str, Any]) -> None:
        self._summary.update(metrics)
        self._write("summary.csv", ["metric", "value"], [[k, v] for k, v in self._summary.items()])

    def _write(self, name: str, head: list[str], rows: list[list[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([head, *rows])
        write_text(Path(str(self.where)) / name, text.getvalue())
