"""Experiment trackers: views of the metrics file, all with the same methods, one of which does nothing."""
from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bdsa.errors import UserError, unknown
from bdsa.ranks import is_main
from bdsa.runs.metrics import flat, plain
from bdsa.runs.selection import BestEpochs
from bdsa.runs.wandb_session import earlier_starts, last_epoch, mode_of_environment, remove, start

# What says where a row belongs; the rest of an eval row is a metric with one curve a budget.
_PLACE = ("kind", "epoch", "split", "name", "budget", "images", "weights")

Row = Mapping[str, Any]


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

    def wants_picture(self, epoch: int) -> bool:
        """Whether a picture of the masks after this epoch would be logged."""
        return False

    def catch_up(self, rows: Sequence[Row], pictures: Mapping[int, Path]) -> None:
        """Log what a resumed run lacks: the rows of the metrics file, and epoch -> picture of the masks after it."""

    def log_train(self, row: Row) -> None:
        """Keep a "train" row of the metrics file for its epoch: loss/task becomes train/loss/task."""

    def log_training_picture(self, path: Path) -> None:
        """Keep a picture of the masks for the epoch."""

    def log_eval(self, rows: Sequence[Row]) -> None:
        """Log the "eval" rows of an epoch, and with them what was kept for it.

        top1 of b030 becomes eval/top1/b030, or eval_ema/top1/b030; of the epoch that the trainer keeps it becomes
        best/top1/b030 in the summary too.
        """

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        """Log the picture files of the end by name."""

    def log_table(self, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
        """Log the final table, a row a budget, a plot of top-1 over MACs, and the summary (final/..., final_ema/...).

        Args:
            rows: what results.json and the table show, with the key "weights" where there are several kinds.
            about: what holds for all rows, such as the number of parameters.
        """

    def finish(self, exit_code: int) -> None:
        """End the run: 0 done, anything else failed. Leaving the `with` block calls it; only the first counts."""


class WandbTracker:
    """A Weights & Biases run, from entering the `with` block to leaving it.

    Online where there is a login, offline otherwise, or as WANDB_MODE says. Nothing is printed;
    `where` has the URL of an online run or the folder of an offline one. A run that is started again
    follows the rules of `bdsa.runs.wandb_session`.

    Args:
        folder: the run's folder; wandb writes to `<folder>/wandb`.
        config: what the run was configured with, a plain dict.
        run_id: the same at each start of the same run, so that a resumed one goes on with its curves.
        tolerance: how far an epoch may miss a budget and count as the best, see `bdsa.runs.selection`.
        pictures_every: epochs from one picture of the masks to the next; 0: none before the end.
    """

    def __init__(self, *, folder: str | Path, config: dict[str, Any], project: str, name: str,
                 group: str | None, job_type: str | None, tags: Sequence[str], run_id: str,
                 tolerance: float, pictures_every: int) -> None:
        if type(config) is not dict:
            raise TypeError(f"wandb wants a plain dict as config, not {type(config).__name__}")
        # Read at each start and handed on: wandb itself looks at it once in a process.
        self._asked_mode = mode_of_environment()
        try:
            import wandb  # here and not above: half a second that only runs with this tracker pay
        except ImportError:
            raise UserError("tracker 'wandb' needs the package wandb: pip install wandb") from None
        self._wandb = wandb
        self._folder, self._run_id = Path(folder), run_id
        self._pictures_every = pictures_every
        # create_new: a run that someone else left open in this process must not get our metrics.
        self._arguments = dict(dir=str(folder), config=config, project=project, name=name, group=group,
                               job_type=job_type, tags=list(tags), id=run_id, resume="allow",
                               reinit="create_new")
        self._run: Any = None
        self._superseded: list[Path] = []
        self._logged = 0                            # the last epoch that the run has
        self._kept: dict[str, Any] = {}             # of the epoch that is not logged yet
        self._finished = False                      # whether it has its results too
        self._best = BestEpochs(tolerance)
        self.where: str | None = None

    def __enter__(self) -> WandbTracker:
        self._folder.mkdir(parents=True, exist_ok=True)  # wandb moves to a temporary folder without it
        self._superseded, uploaded = earlier_starts(self._folder, self._run_id)
        self._run = start(self._wandb, self._asked_mode, self._arguments)
        own = Path(self._run.dir).parent
        self._superseded = [path for path in self._superseded if path.resolve() != own.resolve()]  # of this second
        self._run.define_metric("*", step_metric="epoch")
        mode = self._run.settings.mode
        if mode == "offline":
            self.where = str(own)
            self._logged = last_epoch(uploaded)
        elif mode == "disabled":
            self._superseded = []
        else:
            self.where = self._run.url
            self._logged = int(self._run.summary.get("epoch") or 0)
            self._finished = self._run.summary.get("results") is not None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.finish(0 if kind is None else 1)

    def wants_picture(self, epoch: int) -> bool:
        """Whether a picture of the masks after this epoch would be logged."""
        return self._pictures_every > 0 and epoch % self._pictures_every == 0

    def catch_up(self, rows: Sequence[Row], pictures: Mapping[int, Path]) -> None:
        """Log what a resumed run lacks: the rows of the metrics file, and epoch -> picture of the masks after it."""
        by_epoch: dict[int, list[Row]] = {}
        for row in rows:
            by_epoch.setdefault(row["epoch"], []).append(row)
        for epoch, own in by_epoch.items():
            for row in own:
                if row["kind"] == "train":
                    self.log_train(row)
            if epoch in pictures:
                self.log_training_picture(pictures[epoch])
            self.log_eval([row for row in own if row["kind"] == "eval"])
        remove(self._superseded)  # what they held is logged now
        self._superseded = []

    def log_train(self, row: Row) -> None:
        """Keep a "train" row of the metrics file for its epoch: loss/task becomes train/loss/task."""
        self._kept.update({f"train/{key}": value for key, value in flat(plain(row)).items() if key not in _PLACE})

    def log_training_picture(self, path: Path) -> None:
        """Keep a picture of the masks for the epoch."""
        self._kept["pictures/training"] = path

    def log_eval(self, rows: Sequence[Row]) -> None:
        """Log the "eval" rows of an epoch, and with them what was kept for it: whole, or not at all.

        An epoch that the run has already is passed by: it was logged by an earlier start, which was then cut off.
        """
        kept, self._kept = self._kept, {}
        epoch = rows[0]["epoch"]
        if epoch > self._logged:
            if path := kept.pop("pictures/training", None):
                kept["pictures/training"] = self._wandb.Image(str(path), caption=f"epoch {epoch}")
            for row in rows:
                kept.update(_per_budget("eval", row))
            self._log({"epoch": epoch, **kept})
            self._logged = epoch
        self._keep_best(rows)

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        """Log the picture files of the end by name."""
        if not self._finished:
            self._log({"epoch": self._logged, **{f"pictures/{name}": self._wandb.Image(str(path))
                                                 for name, path in pictures.items()}})

    def log_table(self, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
        """Log the final table, a row a budget, top-1 over MACs, and the summary (final/..., final_ema/...)."""
        if self._finished:
            return
        flat_rows = [flat(plain(row)) for row in rows]
        columns = list(dict.fromkeys(key for row in flat_rows for key in row))
        table = self._wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in flat_rows])
        several = "weights" if len({row.get("weights") for row in rows}) > 1 else None
        self._log({"epoch": self._logged, "results": table, "accuracy_over_macs": self._wandb.plot.line(
            table, "macs", "top1", several, title="top-1 over MACs, a point a budget")})
        for row in rows:
            self._run.summary.update(_dotless(_per_budget("final", row)))
        self._run.summary.update({f"final/{key}": value for key, value in plain(about).items()})

    def finish(self, exit_code: int) -> None:
        """End the run: 0 done, anything else failed. Leaving the `with` block calls it; only the first counts."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)

    def _keep_best(self, rows: Sequence[Row]) -> None:
        """Bring best/top1/b030 and its like up to date: the epoch that the trainer keeps."""
        for own in self._best.update(rows).values():
            for row in own:
                self._run.summary.update(_dotless(_per_budget("best", row)))
            self._run.summary.update({f"{_prefix('best', own[0])}/epoch": own[0]["epoch"]})

    def _log(self, metrics: dict[str, Any]) -> None:
        # No step: rows with a smaller step than the last are dropped, and a resumed run has them.
        self._run.log(_dotless({key: value for key, value in metrics.items() if value is not None}))


def _per_budget(prefix: str, row: Row) -> dict[str, Any]:
    """Metrics of one budget's row with the budget's name as the last part of the key; eval_ema/... of averages."""
    return {f"{_prefix(prefix, row)}/{key}/{row['name']}": value for key, value in flat(plain(row)).items()
            if key not in _PLACE and value is not None}


def _prefix(prefix: str, row: Row) -> str:
    return f"{prefix}_ema" if row.get("weights") == "ema" else prefix


def _dotless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without dots: wandb reads a dot as nesting, and then define_metric silently does nothing."""
    return {key.replace(".", "_"): value for key, value in metrics.items()}


TRACKERS = {"none": NoTracker, "wandb": WandbTracker}


def create_tracker(mode: str, *, folder: str | Path, config: dict[str, Any], project: str, name: str,
                   group: str | None, job_type: str | None, tags: Sequence[str], run_id: str,
                   tolerance: float,
                   pictures_every: int) -> contextlib.AbstractContextManager[NoTracker | WandbTracker]:
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
                          job_type=job_type, tags=tags, run_id=run_id, tolerance=tolerance,
                          pictures_every=pictures_every)
