"""One process writes to a run's folder: run.lock is held while it does, and says who.

The lock is the operating system's (flock), so it ends with the process, however that ended: the file that a killed
process leaves behind locks nobody out. Where the file system knows no locks, the file's word counts: its process is
looked for if it is of this host, and is taken to be running if it is of another one.
"""
from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from bdsa.runs.contents import LOCK
from bdsa.runs.files import naming
from bdsa.runs.standing import NotOurs

try:
    import fcntl
except ImportError:  # of Windows
    fcntl = None  # type: ignore[assignment]

_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
_held: set[int] = set()  # descriptors; a lock belongs to all processes that have one


def _let_go() -> None:
    """In a process that was forked, such as a loader's worker: it may outlive the run, and must not hold its folder."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class FolderLock:
    """The lock of a run's folder; taken by `take` and kept until `release`, or until the process ends.

    Args:
        folder: it is made when the lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK
        self._descriptor: int | None = None

    def take(self) -> None:
        """Lock the folder.

        Raises:
            NotOurs: if another process writes to it; the error says which.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if not self._locked(descriptor):
                    raise self._in_use()
                if not self._is_path(descriptor):  # its holder removed it between the two lines above
                    continue
                about = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                with naming(self.path):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, json.dumps(about).encode())
                _held.add(descriptor)
                self._descriptor, descriptor = descriptor, -1
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def check(self) -> None:
        """Raise NotOurs if another process holds the folder now; nothing is made or locked."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                if not self._locked(descriptor, shared=True):
                    raise self._in_use()
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Remove the file and unlock the folder, if it is held."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _locked(self, descriptor: int, shared: bool = False) -> bool:
        """Whether the file could be locked; `shared` with others who only look, for which reading it is enough."""
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in _BUSY:
                    return False
        holder = self._holder()  # a file system without locks
        return not holder or (holder.get("host") == platform.node() and not _runs(holder.get("pid")))

    def _is_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _holder(self) -> dict[str, Any]:
        """What the file says; nothing where it was only just made."""
        try:
            said = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def _in_use(self) -> NotOurs:
        said = self._holder()
        who = (f"process {said.get('pid')} on {said.get('host')}, since {said.get('since')}" if said
               else "another process")
        return NotOurs(f"{self.folder} is being written by {who}: wait for it, stop it, or choose another name=...")


def _runs(pid: Any) -> bool:
    """Whether there is a process of this number, other than this one."""
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
