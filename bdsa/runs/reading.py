"""Find run folders and read what is in them, whatever state they are in.

Only what a run wrote is read: results.json, metrics.jsonl, config.yaml, environment.json, the traceback of a
failure and the masks kept for the page. What cannot be read becomes a problem, a sentence for the user, and
the rest is still reported.
"""
from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from bdsa.errors import nearest
from bdsa.runs.folder import MASK_SET
from bdsa.runs.name import decisive_settings, default_settings

_NOT_SEARCHED = {"checkpoints", "pictures", "wandb", "evaluations", "visualizations", "__pycache__"}
_ROW = {"name": str, "images": int, "budget": (int, float), "top1": (int, float), "conditional_fraction": (int, float),
        "macs": (int, float)}
_RESULTS = {"model": str, "data": str, "image_size": int, "classes": int, "split": str, "dense_macs": (int, float),
            "trained_budgets": list, "rows": list}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one reads 200 configs in a second


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
        failure: the last line of its traceback, where it failed.
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
        return sorted(self.settings["budgets.targets"])

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
    def masks(self) -> dict[str, Any] | None:
        """What the page shows of its masks: the training's, else the newest that bdsa-visualize made."""
        made = [self.folder / "pictures" / MASK_SET]
        made += sorted(self.folder.glob(f"visualizations/*/{MASK_SET}"), key=lambda p: -p.stat().st_mtime)
        for path in made:
            try:
                content = json.loads(path.read_text())
                usable = content["budgets"] and content["count"] and content["measured"]
                if usable and content["images"].startswith("data:image/"):
                    return content
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return None


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
    runs = [run for folder in found.values() if (run := read_run(folder, problems)) is not None]
    _name_apart(runs, problems)
    return runs


def find_runs(folder: Path) -> list[Path]:
    """The run folders in `folder`, or itself, sorted; inside of a run none is looked for, which makes it quick."""
    found = []
    for where, below, files in os.walk(folder, followlinks=False):
        if "config.yaml" in files or ("results.json" in files and "metrics.jsonl" in files):
            found.append(Path(where))
            below.clear()
        below[:] = sorted(b for b in below if b not in _NOT_SEARCHED and not b.startswith("."))
    return found


def read_run(folder: Path, problems: list[str]) -> Run | None:
    """Read one folder; None, and a problem, where not even its settings can be read."""
    try:
        config = yaml.load((folder / "config.yaml").read_text(), _Loader)
        settings = {**default_settings(), **decisive_settings(config)}
        if not isinstance(settings["budgets.targets"], list) or not isinstance(settings["model.name"], str):
            raise ValueError("it has no budgets or no model")
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        problems.append(f"{folder} is left out: its config.yaml cannot be read ({_first_line(error)})")
        return None
    run = Run(folder, folder.name, settings, config, _environment(folder, problems))
    run.results = _results(folder, run.command, problems)
    run.metrics = _metrics(folder / "metrics.jsonl", problems)
    if run.results is not None and not run.metrics:
        problems.append(f"{folder} has no metrics.jsonl with rows: it has no training curve")
    failure = folder / "failure.txt"
    if run.results is None and failure.is_file():
        run.failure = (failure.read_text(errors="replace").strip().splitlines() or ["no reason given"])[-1]
    return run


def _environment(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads((folder / "environment.json").read_text())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError) as error:
        problems.append(f"{folder}: environment.json cannot be read ({_first_line(error)}); its command is made from "
                        f"its settings")
        return {}


def _results(folder: Path, command: str | None, problems: list[str]) -> dict[str, Any] | None:
    """The content of results.json; None, and a problem if there is a file, where it is not whole."""
    path = folder / "results.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        _check(content, _RESULTS)
        for row in content["rows"]:
            _check(row, _ROW)
        if not content["rows"]:
            raise ValueError("it has no rows")
        return content
    except (OSError, ValueError) as error:
        problems.append(f"{path} is broken or cut off ({_first_line(error)}): delete it, and "
                        f"`{command or 'the same command'}` makes it again from the checkpoint")
        return None


def _check(content: Any, needs: dict[str, Any]) -> None:
    """Raise ValueError unless `content` has the keys with values of these types."""
    if not isinstance(content, dict):
        raise ValueError(f"{str(content)[:20]!r} is no set of named values")
    for key, kind in needs.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"'{key}' is {'missing' if key not in content else repr(content[key])}")


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
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
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


def _name_apart(runs: list[Run], problems: list[str]) -> None:
    """Give runs of one name the shortest end of their paths that tells them apart."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    for name, same in by_name.items():
        if len(same) < 2:
            continue
        depth = 1
        while len({run.folder.parts[-depth:] for run in same}) < len(same):
            depth += 1
        for run in same:
            run.name = "/".join(run.folder.parts[-depth:])
        problems.append(f"{len(same)} runs are called {name}: they are shown as {', '.join(r.name for r in same)}")


def _first_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is none"
    return (str(error) or type(error).__name__).splitlines()[0]
