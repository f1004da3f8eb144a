"""MLflow: on the server of MLFLOW_TRACKING_URI, else in the run's folder."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdsa.errors import UserError
from bdsa.runs.files import write_json
from bdsa.runs.metrics import flat
from bdsa.runs.trackers.base import EpochTracker


class MlflowTracker(EpochTracker):
    """A run of an MLflow experiment, which is the project; the step of a metric is its epoch.

    Which run it is stands in `<folder>/mlflow/run.json`, so that a resumed run goes on with it.

    Args:
        folder: the run's folder.
        config: the settings, kept as parameters.
        project, name, group, tags: the experiment, the run and its tags.
        tolerance, pictures_every: see `EpochTracker`.
    """

    def __init__(self, *, folder: str | Path, config: dict[str, Any], project: str, name: str, group: str | None,
                 tags: list[str], tolerance: float, pictures_every: int, **_: Any) -> None:
        super().__init__(tolerance, pictures_every)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise UserError("tracker 'mlflow' needs an extra: pip install 'bdsa[mlflow]'") from None
        self._home = Path(folder) / "mlflow"
        self._at = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(self._home / 'mlflow.db').absolute()}"
        self._make, self._config, self._client = MlflowClient, config, None
        self._project, self._name = project, name
        self._tags = {**dict.fromkeys(tags, "true"), **({"group": group} if group else {})}
        self._id = ""

    def __enter__(self) -> MlflowTracker:
        self._home.mkdir(parents=True, exist_ok=True)
        self._client = self._make(tracking_uri=self._at)
        kept = self._home / "run.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        if known.get("at") == self._at:
            run = self._client.get_run(known["id"])
            self._logged = int(run.data.metrics.get("epoch", 0))
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment(), run_name=self._name, tags=self._tags)
            for key, value in flat(self._config).items():
                self._client.log_param(run.info.run_id, key, str(value)[:500])
            write_json(kept, {"at": self._at, "id": run.info.run_id})
        self._id = run.info.run_id
        self.where = f"{self._at}, run {self._id}"
        return self

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._project)
        if found is not None:
            return found.experiment_id
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (self._home / "artifacts").absolute().as_uri()
        return self._client.create_experiment(self._project, artifact_location=own)

    def _log_epoch(self, epoch: int, metrics: dict[str, Any], picture: Path | None) -> None:
        if picture is not None:
            self._client.log_artifact(self._id, str(picture), "pictures/training")
        self._add(metrics, epoch)
        self._client.log_metric(self._id, "epoch", epoch, step=epoch)  # last: now the epoch is whole

    def log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        for path in pictures.values():
            self._client.log_artifact(self._id, str(path), "pictures")

    def _summarise(self, metrics: dict[str, Any]) -> None:
        self._add(metrics, self._logged)

    def finish(self, exit_code: int) -> None:
        client, self._client = self._client, None
        if client is not None and self._id:
            client.set_terminated(self._id, "FAILED" if exit_code else "FINISHED")

    def _add(self, metrics: dict[str, Any], epoch: int) -> None:
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self._client.log_metric(self._id, name, float(value), step=epoch)
            else:
                self._client.set_tag(self._id, name, str(value))
