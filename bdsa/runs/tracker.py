"""The trackers of a run by their names; what they are is in `bdsa.runs.trackers`."""
from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bdsa.errors import unknown
from bdsa.ranks import is_main
from bdsa.runs.trackers.base import NoTracker
from bdsa.runs.trackers.guarded import GuardedTrackers

# name -> its class; each is imported by the runs that ask for it
TRACKERS = {"wandb": "bdsa.runs.trackers.wandb:WandbTracker", "csv": "bdsa.runs.trackers.csv_files:CsvTracker",
            "tensorboard": "bdsa.runs.trackers.tensorboard:TensorboardTracker",
            "mlflow": "bdsa.runs.trackers.mlflow:MlflowTracker"}


def create_tracker(mode: str, also: Sequence[str] = (), *, folder: str | Path, config: dict[str, Any], project: str,
                   name: str, group: str | None, job_type: str | None, tags: Sequence[str], run_id: str,
                   tolerance: float, pictures_every: int) -> NoTracker:
    """Return the tracker called `mode`, with further ones beside it; used in a `with` statement, which starts the run.

    Ranks other than 0 get the one that does nothing. One that fails does not end the training, see `GuardedTrackers`.

    Args:
        also: names of further trackers.
        folder, config, project, name, group, job_type, tags, run_id: see `WandbTracker`.
        tolerance, pictures_every: see `EpochTracker`.

    Raises:
        UserError: if there is no tracker of a name, or its package is not installed.
    """
    if type(config) is not dict:
        raise TypeError(f"trackers want a plain dict as config, not {type(config).__name__}")
    asked = [asked for asked in dict.fromkeys([mode, *also]) if asked != "none"]
    for one in asked:
        if one not in TRACKERS:
            raise unknown("tracker", one, ("none", *TRACKERS))
    if not asked or not is_main():
        return NoTracker()
    arguments = dict(folder=folder, config=config, project=project, name=name, group=group, job_type=job_type,
                     tags=list(tags), run_id=run_id, tolerance=tolerance, pictures_every=pictures_every)
    return GuardedTrackers({one: lambda one=one: _class_of(one)(**arguments) for one in asked})


def _class_of(name: str) -> Any:
    module, _, kind = TRACKERS[name].partition(":")
    return getattr(import_module(module), kind)
