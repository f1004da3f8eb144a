"""Experiment trackers: views of the metrics file, all with the same methods, one of which does nothing."""
from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bdsa.errors import UserError, unknown
from bdsa.metrics_file import flat, plain
from bdsa.ranks import is_main

log = logging.getLogger(__name__)

# What says where a row belongs; the rest of an eval row is a metric with one curve a budget.
_PLACE = ("kind", "epoch", "split", "name", "budget", "images", "weights")
# The values of WANDB_MODE and what they mean; the last two are older spellings.
_WANDB_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "shared": "shared",
                "dryrun": "offline", "run": "online"}
# Seconds to wait for the server; wandb's own 90 would hold every job of a sweep while it is down.
_INIT_TIMEOUT = 30.0


class NoTracker:
    """A tracker that tracks nothing, so that the trainer never asks whether there is one.

    Attributes:
        where: the run's folder or URL, to print for the user; None where there is neither.
    """

    where: str | None = None

    def __enter__(self) -> NoTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.finish(0 if kind is None else 1)

    def log_train(self, row: Mapping[str, Any]) -> None:
        """Log a "train" row of the metrics file: loss/task becomes train/loss/task."""

    def log_eval(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log "eval" rows of the metrics file: top1 of b030 becomes eval/top1/b030, or eval_ema/top1/b030."""

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        """Log picture files by name."""

    def log_table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the final table, a row a budget, and its values as the summary (final/..., final_ema/...)."""

    def finish(self, exit_code: int) -> None:
        """End the run: 0 done, anything else failed. Leaving the `with` block calls it; only the first counts."""


class WandbTracker:
    """A Weights & Biases run, from entering the `with` block to leaving it.

    Online where there is a login, offline otherwise, or as WANDB_MODE says. Nothing is printed;
    `where` has the URL of an online run or the folder of an offline one.

    Args:
        folder: the run's folder; wandb writes to `<folder>/wandb`.
        config: what the run was configured with, a plain dict.
        run_id: the same at each start of the same run, so that a resumed one goes on with its curves.
    """

    def __init__(self, *, folder: str | Path, config: dict[str, Any], project: str, name: str,
                 group: str | None, job_type: str | None, tags: Sequence[str], run_id: str) -> None:
        if type(config) is not dict:
            raise TypeError(f"wandb wants a plain dict as config, not {type(config).__name__}")
        # Read at each start and handed on: wandb itself looks at it once in a process.
        self._asked_mode = _mode_of_environment()
        try:
            import wandb  # here and not above: half a second that only runs with this tracker pay
        except ImportError:
            raise UserError("tracker 'wandb' needs the package wandb: pip install wandb") from None
        self._wandb = wandb
        self._folder = Path(folder)
        # create_new: a run that someone else left open in this process must not get our metrics.
        self._arguments = dict(dir=str(folder), config=config, project=project, name=name, group=group,
                               job_type=job_type, tags=list(tags), id=run_id, resume="allow",
                               reinit="create_new")
        self._run: Any = None
        self.where: str | None = None

    def __enter__(self) -> WandbTracker:
        self._folder.mkdir(parents=True, exist_ok=True)  # wandb moves to a temporary folder without it
        self._run = self._start()
        self._run.define_metric("*", step_metric="epoch")
        mode = self._run.settings.mode
        if mode == "offline":
            self.where = str(Path(self._run.dir).parent)
        elif mode != "disabled":
            self.where = self._run.url
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.finish(0 if kind is None else 1)

    def log_train(self, row: Mapping[str, Any]) -> None:
        """Log a "train" row of the metrics file: loss/task becomes train/loss/task."""
        metrics = {f"train/{key}": value for key, value in flat(plain(row)).items() if key not in _PLACE}
        self._log({"epoch": row["epoch"], **metrics})

    def log_eval(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log "eval" rows of the metrics file: top1 of b030 becomes eval/top1/b030, or eval_ema/top1/b030."""
        by_epoch: dict[int, dict[str, Any]] = {}
        for row in rows:
            metrics = by_epoch.setdefault(row["epoch"], {"epoch": row["epoch"]})
            metrics.update(_per_budget("eval", row))
        for metrics in by_epoch.values():
            self._log(metrics)

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        """Log picture files by name."""
        self._log({f"pictures/{name}": self._wandb.Image(str(path)) for name, path in pictures.items()})

    def log_table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the final table, a row a budget, and its values as the summary (final/..., final_ema/...)."""
        flat_rows = [flat(plain(row)) for row in rows]
        columns = list(dict.fromkeys(key for row in flat_rows for key in row))
        data = [[row.get(column) for column in columns] for row in flat_rows]
        self._log({"results": self._wandb.Table(columns=columns, data=data)})
        for row in rows:
            self._run.summary.update(_dotless(_per_budget("final", row)))

    def finish(self, exit_code: int) -> None:
        """End the run: 0 done, anything else failed. Leaving the `with` block calls it; only the first counts."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)

    def _log(self, metrics: dict[str, Any]) -> None:
        # No step: rows with a smaller step than the last are dropped, and a resumed run has them.
        metrics = {key: value for key, value in metrics.items() if value is not None}
        if metrics:
            self._run.log(_dotless(metrics))

    def _start(self) -> Any:
        """Start the run; an online one that cannot start goes on offline."""
        mode = self._asked_mode
        try:
            session = self._wandb.setup(self._settings())
            if mode is None:
                mode = session.settings.mode  # the command `wandb offline` leaves its word there
                if mode == "online" and not self._wandb.login(prompt=False, verify=False):
                    mode = "offline"
            if mode in ("online", "shared"):
                return self._wandb.init(mode=mode, settings=self._settings(), **self._arguments)
        except Exception as error:  # no server, a key that is none, no terminal to ask: training goes on
            log.warning("Weights & Biases cannot start online (%s); this run is recorded offline", error)
            mode = "offline"
            # The session keeps the run id of the failed start in use, and refuses it to the next.
            self._wandb.teardown()
            self._wandb.setup(self._settings())
        try:
            return self._wandb.init(mode=mode, settings=self._settings(), **self._arguments)
        except self._wandb.errors.UsageError as error:
            raise UserError(f"Weights & Biases refuses this run: {error}") from None

    def _settings(self) -> Any:
        settings: dict[str, Any] = {"silent": True, "console": "off"}
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            settings["init_timeout"] = _INIT_TIMEOUT
        return self._wandb.Settings(**settings)


def _mode_of_environment() -> str | None:
    """Return what WANDB_MODE asks for, or None; wandb says a wrong one in a page of schema errors."""
    asked = os.environ.get("WANDB_MODE")
    if not asked:
        return None
    if asked not in _WANDB_MODES:
        raise unknown("WANDB_MODE", asked, _WANDB_MODES)
    return _WANDB_MODES[asked]


def _per_budget(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of one budget's row with the budget's name as the last part of the key; eval_ema/... of averages."""
    prefix = f"{prefix}_ema" if row.get("weights") == "ema" else prefix
    return {f"{prefix}/{key}/{row['name']}": value for key, value in flat(plain(row)).items()
            if key not in _PLACE and value is not None}


def _dotless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without dots: wandb reads a dot as nesting, and then define_metric silently does nothing."""
    return {key.replace(".", "_"): value for key, value in metrics.items()}


TRACKERS = {"none": NoTracker, "wandb": WandbTracker}


def create_tracker(mode: str, *, folder: str | Path, config: dict[str, Any], project: str, name: str,
                   group: str | None, job_type: str | None, tags: Sequence[str],
                   run_id: str) -> contextlib.AbstractContextManager[NoTracker | WandbTracker]:
    """Return the tracker called `mode`, to be used in a `with` statement, which starts the run.

    Ranks other than 0 get the one that does nothing.

    Raises:
        UserError: if there is no tracker of that name, or its package is not installed.
    """
    if mode not in TRACKERS:
        raise unknown("tracker", mode, TRACKERS)
    if mode == "none" or not is_main():
        return NoTracker()
    return TRACKERS[mode](folder=folder, config=config, project=project, name=name, group=group,
                          job_type=job_type, tags=tags, run_id=run_id)
