"""failure.txt in a run's folder: why its last attempt failed, until a later one succeeds."""
from __future__ import annotations

import contextlib
import traceback
from pathlib import Path

from bdsa.errors import UserError
from bdsa.runs.environment import command
from bdsa.runs.files import write_text

NAME = "failure.txt"


def reason(error: BaseException) -> str:
    """An error in one line: a user's as it is, any other with its kind."""
    first = next(iter(str(error).strip().splitlines()), "")
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}".rstrip(": ")


def write(folder: Path, error: BaseException) -> Path:
    """Leave reason, command and traceback in a run's folder; returns the file."""
    trace = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # a full disk is itself a reason, and must not hide the first one
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / NAME, f"{reason(error)}\n\n{command()}\n\n{trace}")
    return folder / NAME


def read_reason(folder: Path) -> str | None:
    """The line that says why a folder's last attempt failed; None where it did not."""
    try:
        return next(iter((folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()), "")
    except OSError:
        return None


def clear(folder: Path) -> None:
    """Remove the trace of an earlier failure."""
    with contextlib.suppress(OSError):
        (folder / NAME).unlink()
