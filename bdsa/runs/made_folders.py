"""Folders that Hydra makes for a job before its settings are checked: a wrong command takes these away, and no others.

Hydra asks for the folder's name first, and only then makes it: that is when it is seen what was there before.
"""
from __future__ import annotations

import contextlib
from pathlib import Path

_absent: set[Path] = set()


def expect(folder: Path) -> None:
    """Remember which of a folder and its parents are not there yet."""
    path = folder.absolute()
    _absent.update(p for p in (path, *path.parents) if not p.exists())


def take_away(folder: Path) -> None:
    """Remove a folder, and then its parents, as far as they are empty and were not there before."""
    path = folder.absolute()
    for empty in (path, *path.parents):
        if empty not in _absent:
            return
        with contextlib.suppress(OSError):  # another process was faster
            if any(empty.iterdir()):
                return
            empty.rmdir()
