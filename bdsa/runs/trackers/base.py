"""What every tracker is asked: the one that does nothing, and what those share that do something."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bdsa.runs.metrics import flat, plain
from bdsa.runs.selection import BestEpochs

# What says where a row belongs; the rest of an eval row is a metric with one curve a budget.
PLACE = ("kind", "epoch", "split", "name", "budget", "images", "weights")

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
        """Log the final table, a row a budget, top-1 over MACs, and the summary (final/..., final_ema/...).

        Args:
            rows: what results.json and the table show, with the key "weights" where there are several kinds.
            about: what holds for all rows, such as the number of parameters.
        """

    def finish(self, exit_code: int) -> None:
        """End the run: 0 done, anything else failed. Leaving the `with` block calls it; only the first counts."""


class EpochTracker(NoTracker):
    """A tracker that gets an epoch at a time, whole, each once, and a summary; how it writes them is a subclass's.

    Args:
        tolerance: how far an epoch may miss a budget and count as the best, see `bdsa.runs.selection`.
        pictures_every: epochs from one picture of the masks to the next; 0: none before the end.
    """

    def __init__(self, tolerance: float, pictures_every: int) -> None:
        self._pictures_every = pictures_every
        self._best = BestEpochs(tolerance)
        self._logged = 0                    # the last epoch that the run has
        self._finished = False              # whether it has its results too
        self._kept: dict[str, Any] = {}     # of the epoch that is not logged yet
        self._picture: Path | None = None

    def _log_epoch(self, epoch: int, metrics: dict[str, Any], picture: Path | None) -> None:
        """Write an epoch: metric -> number, and the picture of its masks."""
        raise NotImplementedError

    def _summarise(self, metrics: dict[str, Any]) -> None:
        """Write numbers of the whole run; later ones replace earlier ones of the same name."""
        raise NotImplementedError

    def _log_rows(self, rows: Sequence[Row]) -> None:
        """Write the final table, where the tracker has tables."""

    def wants_picture(self, epoch: int) -> bool:
        return self._pictures_every > 0 and epoch % self._pictures_every == 0

    def catch_up(self, rows: Sequence[Row], pictures: Mapping[int, Path]) -> None:
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

    def log_train(self, row: Row) -> None:
        self._kept.update({f"train/{key}": value for key, value in flat(plain(row)).items() if key not in PLACE})

    def log_training_picture(self, path: Path) -> None:
        self._picture = path

    def log_eval(self, rows: Sequence[Row]) -> None:
        """As `NoTracker.log_eval`. An epoch is logged whole or not at all; one that the run has is passed by."""
        metrics, picture = self._kept, self._picture
        self._kept, self._picture = {}, None
        if not rows:
            return
        epoch = rows[0]["epoch"]
        if epoch > self._logged:
            for row in rows:
                metrics.update(per_budget("eval", row))
            self._log_epoch(epoch, _present(metrics), picture)
            self._logged = epoch
        for own in self._best.update(rows).values():
            summary = {f"{_prefix('best', own[0])}/epoch": own[0]["epoch"]}
            for row in own:
                summary.update(per_budget("best", row))
            self._summarise(_present(summary))

    def log_table(self, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
        if self._finished:
            return
        self._log_rows(rows)
        final = {f"final/{key}": value for key, value in plain(about).items()}
        for row in rows:
            final.update(per_budget("final", row))
        self._summarise(_present(final))


def per_budget(prefix: str, row: Row) -> dict[str, Any]:
    """Metrics of one budget's row with the budget's name as the last part of the key; eval_ema/... of averages."""
    return {f"{_prefix(prefix, row)}/{key}/{row['name']}": value for key, value in flat(plain(row)).items()
            if key not in PLACE}


def _prefix(prefix: str, row: Row) -> str:
    return f"{prefix}_ema" if row.get("weights") == "ema" else prefix


def _present(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What has a value, by names without dots: dashboards read a dot as nesting."""
    return {key.replace(".", "_"): value for key, value in metrics.items() if value is not None}
