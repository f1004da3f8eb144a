"""Weights & Biases."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdsa.errors import UserError
from bdsa.runs.metrics import flat, plain
from bdsa.runs.trackers.base import EpochTracker, Row
from bdsa.runs.trackers.wandb_session import earlier_starts, last_epoch, mode_of_environment, remove, start


class WandbTracker(EpochTracker):
    """A Weights & Biases run, from entering the `with` block to leaving it.

    Online where there is a login, offline otherwise, or as WANDB_MODE says. Nothing is printed;
    `where` has the URL of an online run or the folder of an offline one. A run that is started again
    follows the rules of `bdsa.runs.trackers.wandb_session`.

    Args:
        folder: the run's folder; wandb writes to `<folder>/wandb`.
        config: what the run was configured with, a plain dict.
        run_id: the same at each start of the same run, so that a resumed one goes on with its curves.
        tolerance, pictures_every: see `EpochTracker`.
    """

    def __init__(self, *, folder: str | Path, config: dict[str, Any], project: str, name: str,
                 group: str | None, job_type: str | None, tags: Sequence[str], run_id: str,
                 tolerance: float, pictures_every: int) -> None:
        super().__init__(tolerance, pictures_every)
        # Read at each start and handed on: wandb itself looks at it once in a process.
        self._asked_mode = mode_of_environment()
        try:
            import wandb  # here and not above: half a second that only runs with this tracker pay
        except ImportError:
            raise UserError("tracker 'wandb' needs the package wandb: pip install wandb") from None
        self._wandb = wandb
        self._folder, self._run_id = Path(folder), run_id
        # create_new: a run that someone else left open in this process must not get our metrics.
        self._arguments = dict(dir=str(folder), config=config, project=project, name=name, group=group,
                               job_type=job_type, tags=list(tags), id=run_id, resume="allow",
                               reinit="create_new")
        self._run: Any = None
        self._superseded: list[Path] = []

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

    def catch_up(self, rows: Sequence[Row], pictures: Mapping[int, Path]) -> None:
        super().catch_up(rows, pictures)
        remove(self._superseded)  # what they held is logged now
        self._superseded = []

    def _log_epoch(self, epoch: int, metrics: dict[str, Any], picture: Path | None) -> None:
        # No step: rows with a smaller step than the last are dropped, and a resumed run has them.
        shown = {} if picture is None else {
            "pictures/training": self._wandb.Image(str(picture), caption=f"epoch {epoch}")}
        self._run.log({"epoch": epoch, **metrics, **shown})

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        if not self._finished:
            self._run.log({"epoch": self._logged, **{f"pictures/{name}": self._wandb.Image(str(path))
                                                     for name, path in pictures.items()}})

    def _log_rows(self, rows: Sequence[Row]) -> None:
        flat_rows = [flat(plain(row)) for row in rows]
        columns = list(dict.fromkeys(key for row in flat_rows for key in row))
        table = self._wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in flat_rows])
        several = "weights" if len({row.get("weights") for row in rows}) > 1 else None
        self._run.log({"epoch": self._logged, "results": table, "accuracy_over_macs": self._wandb.plot.line(
            table, "macs", "top1", several, title="top-1 over MACs, a point a budget")})

    def _summarise(self, metrics: dict[str, Any]) -> None:
        self._run.summary.update(metrics)

    def finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)
