"""Find run folders and read what is in them, whatever state they are in.

Only what a run wrote is read, by `bdsa.runs.contents`. What cannot be read becomes a problem, a sentence for the
user, and the rest is still reported.
"""
from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bdsa.budgets import Budgets
from bdsa.errors import UserError, nearest
from bdsa.runs import contents, failures
from bdsa.runs.evaluations import between_rows, cascade_rows
from bdsa.runs.name import decisive_settings, default_settings

_NOT_SEARCHED = {"checkpoints", "pictures", "wandb", "csv", "tensorboard", "mlflow", "evaluations", "visualizations",
                 "__pycache__"}
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")


@dataclass
class Run:
    """A run's folder.

    Attributes:
        folder: where it is.
        name: short, different for all runs of a report.
        settings: everything that decides the result, flat; defaults stand in for settings newer than the run.
        config: all settings, nested, as the run wrote them.
        environment: command, versions, processor; empty where it could not be read.
        results: the content of results.json, or None for a run without.
        metrics: rows of metrics.jsonl that could be read.
        failure: why its last attempt failed, in a line.
    """
    folder: Path
    name: str
    settings: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None

    @property
    def trained(self) -> list[float]:
        """The budgets that it trains, ascending."""
        return Budgets(self.settings["budgets.targets"]).plain()

    @property
    def seed(self) -> int:
        return self.settings["trainer.seed"]

    @property
    def epochs_done(self) -> int:
        return max((row["epoch"] for row in self.metrics if row.get("kind") == "train"), default=0)

    @property
    def command(self) -> str | None:
        """The command line that made it, as a shell takes it; None where that was not kept."""
        try:
            words = shlex.split(self.environment.get("command") or "")
        except ValueError:
            return None
        if words and not words[0].startswith("bdsa-"):  # python -m bdsa.commands, or a test
            words[0] = "bdsa-train"
        return shlex.join(words) or None

    @cached_property
    def between(self) -> list[dict[str, Any]]:
        """Rows of budgets between those that it trained, where bdsa-evaluate measured some."""
        return [] if self.results is None else between_rows(self.folder, self.results)

    @cached_property
    def cascade(self) -> list[dict[str, Any]]:
        """Rows of its cascade, where bdsa-evaluate measured it."""
        return [] if self.results is None else cascade_rows(self.folder, self.results)

    @cached_property
    def masks(self) -> dict[str, Any] | None:
        """What the page shows of its masks: the training's, else the newest that bdsa-visualize made."""
        made = [self.folder / contents.PICTURES / contents.MASK_SET]
        made += sorted(self.folder.glob(f"visualizations/*/{contents.MASK_SET}"), key=lambda p: -p.stat().st_mtime)
        for path in made:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if masks_are_whole(content):
                    return content
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return None


def masks_are_whole(content: dict[str, Any]) -> bool:
    """Whether masks.json holds what the page shows, pictures among it; of another form it may raise KeyError too."""
    count = content["count"]
    columns = list(content["budgets"].values())
    return bool(
        columns and 0 < count <= 64 and content["measured"] > 0 and content["blocks"] > 0 and content["ratio"] > 0
        and len(content["labels"]) == count and all(_PICTURE.fullmatch(column["masks"]) for column in columns)
        and _PICTURE.fullmatch(content["images"]) and all(len(column["predictions"]) == count for column in columns)
        and all(0 <= density <= 1 for column in columns for density in column["densities"]))


def read_runs(folders: list[str], problems: list[str]) -> list[Run]:
    """Read every run in the folders, which may be runs or hold runs at any depth.

    Args:
        problems: sentences are added about what is missing, broken or given twice.
    """
    found: dict[Path, Path] = {}  # where it really is -> as it was given
    for folder in folders:
        path = Path(folder)
        if not path.is_dir():
            beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
            problems.append(f"{folder} is no folder{nearest(path.name, beside)}")
            continue
        runs = find_runs(path)
        if not runs:
            problems.append(f"{folder} holds no run of bdsa-train: there is no config.yaml in it or below it")
        for run in runs:
            if found.setdefault(run.resolve(), run) is not run:
                problems.append(f"{run} is given twice: it counts once")
    runs = [run for folder in found.values() if (run := _read_any(folder, problems)) is not None]
    _name_apart(runs, problems)
    return runs


def find_runs(folder: Path) -> list[Path]:
    """The run folders in `folder`, or itself, sorted; inside of a run none is looked for, which makes it quick.

    Links are followed, each folder is looked into once. A config.yaml alone may be of something else: there it goes on.
    """
    found, seen = [], set()
    for where, below, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            below.clear()
            continue
        seen.add(real)
        ours = {contents.RESULTS, contents.METRICS, contents.ENVIRONMENT, contents.LOG} & {*files}
        if contents.CONFIG in files or {contents.RESULTS, contents.METRICS} <= ours:
            found.append(Path(where))
            if ours:
                below.clear()
        kept = (b for b in below if b not in _NOT_SEARCHED and not b.startswith("."))
        below[:] = sorted(kept, key=lambda b: (os.path.islink(os.path.join(where, b)), b))  # a run's own name counts
    return sorted(found)


def _read_any(folder: Path, problems: list[str]) -> Run | None:
    """`read_run`, whatever is in the folder: one that is odd in a way that was not thought of is a problem too."""
    try:
        return read_run(folder, problems)
    except Exception as error:
        problems.append(f"{folder} is left out: {failures.reason(error)}")
        return None


def read_run(folder: Path, problems: list[str]) -> Run | None:
    """Read one folder; None, and a problem, where not even its settings can be read."""
    try:
        config = contents.read_config(folder)
        if config is None:
            raise UserError(f"its {contents.CONFIG} cannot be read (there is none)")
        settings = {**default_settings(), **decisive_settings(config)}
        _check_settings(config, settings)
    except UserError as error:
        problems.append(f"{folder} is left out: {error}")
        return None
    name = Path(os.path.abspath(folder)).name
    run = Run(folder, name, settings, config, _or_problem(contents.read_environment, folder, problems) or {})
    if not (folder / contents.ENVIRONMENT).exists():
        problems.append(f"{folder}: {contents.ENVIRONMENT} cannot be read (there is none); its command is made from "
                        f"its settings")
    run.results = _or_problem(contents.read_results, folder, problems)
    run.metrics = _metrics(folder / contents.METRICS, problems)
    if run.results is not None and not run.metrics:
        problems.append(f"{folder} has no {contents.METRICS} with rows: it has no training curve")
    if run.results is None:
        run.failure = failures.read_reason(folder)
    return run


def _check_settings(config: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise UserError where a section is missing or a value is of another type than its setting's default."""
    if lacking := [name for name in ("model", "budgets", "data", "recipe") if not isinstance(config.get(name), dict)]:
        raise UserError(f"its {contents.CONFIG} has no section {lacking[0]}")
    for name, default in default_settings().items():
        value = settings[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = (number if isinstance(default, (int, float)) and not isinstance(default, bool)
                else default is None or isinstance(value, type(default)))
        if not fits:
            raise UserError(f"its {contents.CONFIG} has {name}={str(value)[:40]}, such as {default} was expected")
    Budgets(settings["budgets.targets"])


def _or_problem(read: Callable[[Path], dict[str, Any] | None], folder: Path, problems: list[str]
                ) -> dict[str, Any] | None:
    """What a reader gives; where the file is damaged, None and a problem."""
    try:
        return read(folder)
    except UserError as error:
        problems.append(str(error))
        return None


def _metrics(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The rows that can be read. `MetricsFile.read` refuses a broken file; a report shows what there is."""
    if not path.exists():
        return []
    rows, broken = [], []
    *lines, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int) or not _has_numbers(row):
                raise ValueError
            rows.append(row)
        except ValueError:
            broken.append(number)
    if rest.strip():
        problems.append(f"{path}: line {len(lines) + 1} was cut off and is left out")
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        problems.append(f"{path}: {'line' if len(broken) == 1 else 'lines'} {shown} cannot be read and "
                        f"{'is' if len(broken) == 1 else 'are'} left out")
    return rows


def _has_numbers(row: dict[str, Any]) -> bool:
    """Whether what is drawn of a row is numbers, where it has them."""
    loss = row.get("loss") if isinstance(row.get("loss"), dict) else {}
    drawn = [row.get("budget"), row.get("top1"), row.get("conditional_fraction"), loss.get("total")]
    return all(v is None or (isinstance(v, (int, float)) and math.isfinite(v)) for v in drawn)


def _name_apart(runs: list[Run], problems: list[str]) -> None:
    """Give runs of one name the shortest end of their paths that tells them apart."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    for name, same in by_name.items():
        if len(same) < 2:
            continue
        depth, parts = 1, [Path(os.path.abspath(run.folder)).parts for run in same]
        while len({each[-depth:] for each in parts}) < len(same):
            depth += 1
        for run, each in zip(same, parts):
            run.name = "/".join(each[-depth:])
        problems.append(f"{len(same)} runs are called {name}: they are shown as {', '.join(r.name for r in same)}")
