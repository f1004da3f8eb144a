"""Trackers that never end a training: one that fails is switched off with a warning, and the run goes on."""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bdsa import ranks
from bdsa.errors import UserError
from bdsa.runs.trackers.base import NoTracker, Row

log = logging.getLogger(__name__)


class GuardedTrackers(NoTracker):
    """Any number of trackers as one, of which none can do harm.

    Args:
        makers: name of a tracker -> what makes it.

    Raises:
        UserError: where it is made or started, for what the user asked wrongly; anything else that goes wrong, then
            or later, is a warning. Ctrl-C is neither.
    """

    def __init__(self, makers: Mapping[str, Callable[[], NoTracker]]) -> None:
        self._live: dict[str, NoTracker] = {}
        for name, make in makers.items():
            self._guard(name, lambda name=name, make=make: self._live.__setitem__(name, make()), strict=True)

    @property
    def where(self) -> str | None:  # type: ignore[override]
        return ", ".join(t.where for t in self._live.values() if t.where is not None) or None

    def __enter__(self) -> GuardedTrackers:
        for name, tracker in list(self._live.items()):
            self._guard(name, tracker.__enter__, strict=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.finish(0 if kind is None else 1)

    def wants_picture(self, epoch: int) -> bool:
        return any(t.wants_picture(epoch) for t in self._live.values())

    def catch_up(self, rows: Sequence[Row], pictures: Mapping[int, Path]) -> None:
        self._each("catch_up", rows, pictures)

    def log_train(self, row: Row) -> None:
        self._each("log_train", row)

    def log_training_picture(self, path: Path) -> None:
        self._each("log_training_picture", path)

    def log_eval(self, rows: Sequence[Row]) -> None:
        self._each("log_eval", rows)

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        self._each("log_pictures", pictures)

    def log_table(self, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
        self._each("log_table", rows, about)

    def finish(self, exit_code: int) -> None:
        self._each("finish", exit_code)

    def _each(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self._live.items()):
            self._guard(name, lambda tracker=tracker: getattr(tracker, method)(*arguments))

    def _guard(self, name: str, act: Callable[[], Any], strict: bool = False) -> None:
        try:
            act()
        except (Exception, SystemExit) as error:  # some libraries end a process where they should raise
            if ranks.put_back(error):
                raise
            tracker = self._live.pop(name, None)
            if strict and isinstance(error, UserError):
                self.finish(1)
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            log.warning("the tracker %s has failed and is left out from here on (%s); metrics.jsonl and results.json "
                        "hold everything", name, reason)
            if tracker is not None:
                self._close(tracker)

    def _close(self, tracker: NoTracker) -> None:
        """End what may still be open of a failed tracker; what it says of that does not matter any more."""
        try:
            tracker.finish(1)
        except (Exception, SystemExit) as error:
            if ranks.put_back(error):
                raise
            log.debug("a failed tracker could not be closed", exc_info=True)
