"""Whose a folder is: only a run's own folder is trained in, and only what a run wrote is removed from it."""
from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bdsa.errors import UserError
from bdsa.runs import contents
from bdsa.runs.failures import NAME as FAILURE

_TRACES = {FAILURE, contents.LOCK, contents.ENVIRONMENT, contents.LOG,  # of an attempt that got no further
           f"{contents.CONFIG}.tmp", f"{contents.ENVIRONMENT}.tmp"}
_SECTIONS = ("model", "budgets", "recipe", "trainer")  # that the settings of every run have
_IDENTITY = (contents.ENVIRONMENT, contents.CONFIG)  # by which a folder is a run's
_FILES = (*_IDENTITY, contents.RESULTS, contents.METRICS, contents.LOG, FAILURE)
_IN_FOLDERS = {  # folder -> what a run writes there
    contents.CHECKPOINTS: ("last.pt", "best.pt", "best_ema.pt", "*.pt.tmp"),
    f"{contents.PICTURES}/training": ("epoch_*.png",),
    contents.PICTURES: ("accuracy_cost.*", "curves.*", "density.*", "masks.*"),
    "wandb": ("run-*", "offline-run-*", "latest-run", "debug*.log"),
    "csv": ("history.csv", "summary.csv"),
    "tensorboard": ("events.out.tfevents.*",),
    "mlflow": ("run.json", "mlflow.db", "artifacts"),
}


class NotOurs(UserError):
    """A folder that this run must leave alone: nothing is written there, not even why."""


def check_is_free(folder: Path) -> None:
    """Raise NotOurs for a folder without settings that holds more than traces of an attempt."""
    others = sorted(p.name for p in _entries(folder)
                    if p.name not in _TRACES and not p.name.startswith(".") and not _is_empty_place(p))
    if others:
        raise NotOurs(f"{folder} holds {', '.join(others[:3])}{', ...' if len(others) > 3 else ''} and no "
                      f"{contents.CONFIG}, so that no run made it: choose another name=... or out=...")


def check_can_begin_anew(folder: Path) -> None:
    """Raise NotOurs unless everything that `own_files` names can be removed: a run made it, and nothing is a link."""
    if not _is_run(folder):
        if (folder / contents.CONFIG).exists():
            raise NotOurs(f"{folder} was not made by bdsa-train, so that trainer.fresh=true removes nothing: choose "
                          f"another name=... or out=...")
        check_is_free(folder)
    for place in _IN_FOLDERS:
        for part in (folder / place, (folder / place).parent):
            if part != folder and part.is_symlink():
                raise NotOurs(f"{part} is a link, and trainer.fresh=true follows none: remove the link, or choose "
                              f"another name=...")
            if part.exists() and not part.is_dir():
                raise NotOurs(f"{part} is no folder, so that no run made it: choose another name=...")
    for name in _FILES:
        if (folder / name).is_symlink() or (folder / name).is_dir():
            raise NotOurs(f"{folder / name} is no file, so that no run made it: choose another name=...")


def own_files(folder: Path) -> Iterator[Path]:
    """The files and folders that a run wrote, each before the folder that it is in.

    In an order in which they may be removed: whoever is stopped between two leaves first no result, then no checkpoint
    to go on from, and until the end a folder that is a run's.
    """
    yield folder / contents.RESULTS
    for place, patterns in _IN_FOLDERS.items():
        for pattern in patterns:
            yield from sorted((folder / place).glob(pattern))
    for name in (*(name for name in _FILES if name not in _IDENTITY), *_IDENTITY):
        yield from (folder / f"{name}.tmp", folder / name)


def own_folders(folder: Path) -> Iterator[Path]:
    """The folders that a run made, to be removed where nothing of somebody else's is left in them."""
    yield from (folder / place for place in _IN_FOLDERS)


def _is_run(folder: Path) -> bool:
    """Whether a folder's settings, or its environment where those are damaged, are a run's."""
    def read(reader: Any) -> dict[str, Any]:
        try:
            return reader(folder) or {}
        except UserError:
            return {}
    config, environment = read(contents.read_config), read(contents.read_environment)
    return all(isinstance(config.get(name), dict) for name in _SECTIONS) or {"run_id", "command"} <= {*environment}


def _is_empty_place(path: Path) -> bool:
    """Whether it is a folder of a run's without a file below it: what is left where somebody stopped removing one."""
    return path.name in {place.partition("/")[0] for place in _IN_FOLDERS} and path.is_dir() and all(
        below.is_dir() and not below.is_symlink() for below in chain([path], path.rglob("*")))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
