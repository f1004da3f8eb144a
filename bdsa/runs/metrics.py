"""The metrics file of a run: JSON lines on disk, the truth that trackers, tables and plots mirror."""
from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdsa.errors import UserError
from bdsa.ranks import is_main
from bdsa.runs.files import naming, replacing

log = logging.getLogger(__name__)

Row = dict[str, Any]

_NUMBERS = ("budget", "top1", "conditional_fraction", "macs", "images", "step", "lr")


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: scalars of torch and numpy as numbers, NaN and inf as None.

    Raises:
        TypeError: for what has no JSON form, such as a tensor with more than one element.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):  # numpy.float64 is one, and json would write it as a plain number too
        return float(value) if math.isfinite(value) else None
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"a metric of type {type(value).__name__} is not a number or text: {value!r}")


def flat(row: Mapping[str, Any], prefix: str = "") -> Row:
    """Return `row` without nesting: {"loss": {"task": 1.0}} becomes {"loss/task": 1.0}."""
    out: Row = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}/"))
        else:
            out[f"{prefix}{key}"] = value
    return out


class MetricsFile:
    """Rows of a run, appended one JSON object a line and read back whole.

    Rows have a `kind`: "train" (one an epoch: epoch, step, loss terms, lr, temperature, seconds,
    images_per_second) or "eval" (one an epoch, weights and budget: epoch, split, weights "raw" or
    "ema", name, budget, top1 in percent, conditional_fraction, macs, images). One process writes, rank 0:
    in others the writing methods do nothing.

    Args:
        path: the file, `metrics.jsonl` in the run's folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row and wait until it is on the disk; NaN and inf are written as null."""
        if not is_main():
            return
        line = json.dumps(plain(row), allow_nan=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), open(self.path, "a+b") as file:
            # A crash can leave half a line; a row written behind it would be lost with it.
            kept = self._whole_bytes(file.seek(0, os.SEEK_END), file)
            file.truncate(kept)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Row]:
        """Return every row in the order written; an empty list where there is no file.

        A last line without its line end is what a crash leaves: it is dropped with a warning.

        Raises:
            UserError: for a broken line anywhere else, with the file and the line's number.
        """
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        rows = [self._parse(line, number) for number, line in enumerate(lines, 1) if line.strip()]
        if rest.strip():
            log.warning("%s: line %d was cut off, by a crash or a full disk, and is left out",
                        self.path, len(lines) + 1)
        return rows

    def truncate_after(self, epoch: int) -> int:
        """Remove the rows with an `epoch` above `epoch` and return how many they were.

        A resumed run calls this with its checkpoint's epoch, because it will write the later ones
        again. The file is replaced in one move: a crash leaves the old one or the new one.
        """
        if not is_main():
            return 0
        rows = self.read()
        kept = [row for row in rows if row.get("epoch") is None or row["epoch"] <= epoch]
        if not self.path.exists():
            return 0
        with replacing(self.path) as file:
            file.writelines(json.dumps(row).encode() + b"\n" for row in kept)
        return len(rows) - len(kept)

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise UserError(f"{self.path}, line {number} is not JSON ({error}); "
                            f"remove the line to go on") from None
        if not isinstance(row, dict):
            raise UserError(f"{self.path}, line {number} is not a row of metrics but {row!r}; "
                            f"remove the line to go on")
        for key in (key for key in ("epoch", *_NUMBERS) if row.get(key) is not None):
            value = row[key]
            if isinstance(value, bool) or not isinstance(value, int if key == "epoch" else (int, float)):
                raise UserError(f"{self.path}, line {number} has {key}={value!r}, which is no number; remove the line "
                                f"to go on")
        return row

    @staticmethod
    def _whole_bytes(size: int, file: Any) -> int:
        """Number of bytes up to and with the last line end, read backwards in blocks."""
        end = size
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0
