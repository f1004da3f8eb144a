"""TensorBoard, through PyTorch's own writer."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bdsa.errors import UserError
from bdsa.runs.trackers.base import EpochTracker, Row


class TensorboardTracker(EpochTracker):
    """Event files in `<folder>/tensorboard`: the step is the epoch; `final/...` and `best/...` stand at theirs.

    A resumed run writes one new file with everything, from the metrics file, and removes those of earlier starts: they
    may be cut off, or hold epochs that are trained again.

    Args:
        folder: the run's folder.
        config: shown as text.
        tolerance, pictures_every: see `EpochTracker`.
    """

    def __init__(self, *, folder: str | Path, config: dict[str, Any], tolerance: float, pictures_every: int,
                 **_: Any) -> None:
        super().__init__(tolerance, pictures_every)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("tracker 'tensorboard' needs an extra: pip install 'bdsa[tensorboard]'") from None
        self._make, self._config, self._writer = SummaryWriter, config, None
        self.where = str(Path(folder) / "tensorboard")
        self._superseded: list[Path] = []

    def __enter__(self) -> TensorboardTracker:
        self._superseded = sorted(Path(str(self.where)).glob("events.out.tfevents.*"))
        self._writer = self._make(self.where)
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in self._config.items()), 0)
        return self

    def catch_up(self, rows: Sequence[Row], pictures: Mapping[int, Path]) -> None:
        super().catch_up(rows, pictures)
        for path in self._superseded:
            path.unlink(missing_ok=True)
        self._superseded = []

    def _log_epoch(self, epoch: int, metrics: dict[str, Any], picture: Path | None) -> None:
        self._add(metrics, epoch)
        if picture is not None:
            self._add_picture("pictures/training", picture, epoch)
        self._writer.flush()

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        for name, path in pictures.items():
            self._add_picture(f"pictures/{name}", path, self._logged)

    def _log_rows(self, rows: Sequence[Row]) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [columns, ["---"] * len(columns), *([str(row.get(c, "")) for c in columns] for row in rows)]
        self._writer.add_text("results", "\n".join(f"| {' | '.join(line)} |" for line in lines), self._logged)

    def _summarise(self, metrics: dict[str, Any]) -> None:
        self._add(metrics, self._logged)
        self._writer.flush()

    def finish(self, exit_code: int) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _add(self, metrics: dict[str, Any], epoch: int) -> None:
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, epoch)
            else:
                self._writer.add_text(name, str(value), epoch)

    def _add_picture(self, name: str, path: str | Path, epoch: int) -> None:
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
