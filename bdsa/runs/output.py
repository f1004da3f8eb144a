"""Standard output that may go away while a run goes on: a terminal is closed, the reader of a pipe ends.

So may the room for it: of a full disk the run's own files tell.
"""
from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable
from typing import Any, TextIO

_GONE = (errno.EIO, errno.EPIPE)


class LastingOutput(io.TextIOBase):
    """Writes to a stream and drops what it does not take; where its reader has gone, so does all that follows.

    Args:
        stream: None where there is none, as of a process whose standard output was closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:  # closed
            return False

    def write(self, text: str) -> int:
        try:
            self._attempt(lambda stream: stream.write(text))
        except UnicodeEncodeError:
            known = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
            self._attempt(lambda stream: stream.write(known))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, work: Callable[[TextIO], Any]) -> None:
        if self.stream is None:
            return
        try:
            work(self.stream)
        except UnicodeEncodeError:
            raise
        except ValueError:  # closed
            pass
        except OSError as error:
            if error.errno in _GONE:
                _lead_nowhere(self.stream)


def _lead_nowhere(stream: TextIO) -> None:
    """Point a stream's file at the null device: what it still holds would fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
