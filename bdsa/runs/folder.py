"""A run's folder: what is in it, who may write to it, and what made it.

Rules, in this order, when a command is started:
1. The folder is empty or missing: a new run. It holds what no run wrote: an error.
2. It holds a run of other settings: an error that names them, unless `trainer.fresh=true`. A run that is not done may
   go on with another `trainer.amp` or `trainer.compile`: not every machine is fast with both.
3. It holds results.json: the run is done; it is shown, nothing is written.
4. Another process writes to it: an error that says which.
5. It holds checkpoints/last.pt: the run goes on after that checkpoint's epoch.
6. It holds settings but no checkpoint: the run was stopped in its first epoch and starts again.
7. `trainer.fresh=true`: what the run wrote is removed first, and nothing else; but a job that Slurm or torchrun starts
   again goes on with what it began itself.
"""
from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bdsa.errors import UserError
from bdsa.ranks import is_main
from bdsa.runs import contents
from bdsa.runs.environment import began, environment
from bdsa.runs.files import write_json, write_text
from bdsa.runs.lock import FolderLock
from bdsa.runs.metrics import MetricsFile
from bdsa.runs.name import OF_THE_MACHINE, decisive_settings, default_settings
from bdsa.runs.output import LastingOutput
from bdsa.runs.standing import NotOurs, check_can_begin_anew, check_is_free, own_files, own_folders

log = logging.getLogger("bdsa")


class PrintHandler(logging.Handler):
    """Log with print, so that a progress bar that has taken over stdout keeps its line."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=LastingOutput(sys.stdout), flush=True)


class RunFolder:
    """Paths of a run and its standing by the rules above.

    Args:
        path: the folder; it need not exist.
        config: the run's settings as a plain nested dictionary.
        fresh: rule 7.

    Raises:
        UserError: by rules 1, 2 and 7, before anything is written or removed.
    """

    def __init__(self, path: Path, config: dict[str, Any], fresh: bool = False) -> None:
        self.path, self.config = path, config
        self.config_file, self.environment_file = path / contents.CONFIG, path / contents.ENVIRONMENT
        checkpoints = path / contents.CHECKPOINTS
        self.last, self.best, self.best_ema = (checkpoints / f"{n}.pt" for n in ("last", "best", "best_ema"))
        self.results_file, self.pictures = path / contents.RESULTS, path / contents.PICTURES
        self.metrics = MetricsFile(path / contents.METRICS)
        self.handlers: list[logging.Handler] = []
        fresh = fresh and not began(self._environment()[0])
        self.fresh, self.lock = fresh, FolderLock(path)
        self.moved: list[str] = []  # by rule 2: what goes on otherwise than it was begun, for the log
        if fresh:
            check_can_begin_anew(path)
        elif (before := contents.read_config(path)) is not None:
            self._check_same_settings(before)
        else:
            check_is_free(path)
        self._look()

    def _look(self) -> None:
        self.done = self.results_file.exists() and not self.fresh
        self.resumes = self.last.exists() and not self.fresh

    def check_free(self) -> None:
        """Raise NotOurs, by rule 4, if the run is not done and another process writes to the folder now."""
        if not self.done:
            self.lock.check()

    def hold(self) -> None:
        """Keep other processes from the folder until `close`; look again at what is in it. Rank 0 alone does.

        Raises:
            NotOurs: by rule 4.
        """
        if is_main() and not self.done:
            self.lock.take()
            self._look()  # another process may have finished it meanwhile

    def best_of(self, weights: str) -> Path:
        """The best checkpoint of the "raw" weights, or of their average, "ema"."""
        return {"raw": self.best, "ema": self.best_ema}[weights]

    def training_picture(self, epoch: int) -> Path:
        """Where the picture of the masks after an epoch goes."""
        return self.pictures / "training" / f"epoch_{epoch:04d}.png"

    def training_pictures(self) -> dict[int, Path]:
        """Epoch -> its picture, of those that were drawn."""
        return {int(p.stem.rpartition("_")[2]): p for p in sorted((self.pictures / "training").glob("epoch_*.png"))}

    def _check_same_settings(self, before: dict[str, Any]) -> None:
        old = {**default_settings(), **decisive_settings(before)}
        new = decisive_settings(self.config)
        differ = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if not self.results_file.exists():
            self.moved = [f"{k}={new[k]}, until here {old[k]}" for k in differ if k in OF_THE_MACHINE]
            differ = [k for k in differ if k not in OF_THE_MACHINE]
        changed = [f"{k}: {old.get(k)} -> {new.get(k)}" for k in differ]
        if changed:
            raise NotOurs(f"{self.path} holds a run of other settings ({'; '.join(changed[:3])}"
                          f"{'; ...' if len(changed) > 3 else ''}): choose another name=..., or discard that run "
                          f"with trainer.fresh=true")

    def open(self, device: str) -> str:
        """Make the folder, write settings and environment, start the log; return the run's id for trackers.

        Rank 0 alone does; in other processes there is nothing to write and nobody to tell.
        """
        if not is_main():
            log.addHandler(logging.NullHandler())  # without any, Python would print warnings
            log.propagate = False
            return ""
        if self.fresh:
            self._remove_own()
        run_id, warning = self._run_id()
        write_text(self.config_file, OmegaConf.to_yaml(OmegaConf.create(self.config)))  # first: now it is a run's
        write_json(self.environment_file, {"run_id": run_id, **environment(device)})
        self.handlers = [logging.FileHandler(self.path / contents.LOG, encoding="utf-8"), PrintHandler()]
        for handler in self.handlers:
            handler.setFormatter(logging.Formatter("%(message)s"))
            log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        if warning:
            log.warning("%s", warning)
        return run_id

    def _run_id(self) -> tuple[str, str]:
        """The id that the run has, or a new one, and what is wrong with the file that kept it."""
        found, warning = self._environment()
        kept = found.get("run_id")
        return (kept if isinstance(kept, str) and kept else uuid.uuid4().hex[:12]), warning

    def _environment(self) -> tuple[dict[str, Any], str]:
        """What environment.json holds, and what is wrong with it."""
        try:
            return contents.read_environment(self.path) or {}, ""
        except UserError as error:
            return {}, f"{error}; it is written anew, and trackers see a new run"

    def _remove_own(self) -> None:
        for own in own_files(self.path):
            shutil.rmtree(own) if own.is_dir() and not own.is_symlink() else own.unlink(missing_ok=True)
        for own in own_folders(self.path):
            with contextlib.suppress(OSError):  # missing, or not empty: somebody else's files stay
                own.rmdir()

    def close(self) -> None:
        """Stop logging to this folder, so that the next job of a multirun starts clean, and let others write to it."""
        self.lock.release()
        for handler in self.handlers:
            log.removeHandler(handler)
            handler.close()
        self.handlers = []
