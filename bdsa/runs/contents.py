"""What is in a run's folder, file by file: the one place that knows their names and reads them.

A missing file is None. A damaged one is a UserError that names it and says what to do.
"""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from bdsa.budgets import Budgets
from bdsa.errors import UserError, first_line

CONFIG, ENVIRONMENT, METRICS, RESULTS = "config.yaml", "environment.json", "metrics.jsonl", "results.json"
CHECKPOINTS, PICTURES, LOG, LOCK = "checkpoints", "pictures", "train.log", "run.lock"
MASK_SET = "masks.json"  # in pictures/ and visualizations/NAME/: see bdsa.report.pictures.mask_set

_NUMBER, _SIZE = (int, float), (int, list)
_ROW = {"name": str, "images": int, "budget": _NUMBER, "top1": _NUMBER, "conditional_fraction": _NUMBER,
        "macs": _NUMBER}
_RESULTS = {"model": str, "data": str, "image_size": _SIZE, "classes": int, "split": str, "dense_macs": _NUMBER,
            "trained_budgets": list, "rows": list}
_MAYBE = {"top5": _NUMBER, "latency_ms": _NUMBER, "speedup": _NUMBER, "parameters": int, "epoch": int, "weights": str,
          "validated_on": str, "raw": dict, "latency": dict}  # of results and rows, where they have them
_SHOWN = {"parameters": int, "epoch": int, "weights": str, "validated_on": str}  # what the run itself prints
_ABOVE_ZERO = ("images", "macs", "dense_macs", "classes", "speedup", "latency_ms")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one reads 200 configs in a second


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings of a run, nested, as it wrote them."""
    path = folder / CONFIG
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): the run's folder is damaged; another name=..., "
                        f"or trainer.fresh=true, trains anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: the run's folder is damaged; another name=..., or "
                        f"trainer.fresh=true, trains anew")
    return content


def read_environment(folder: Path) -> dict[str, Any] | None:
    """Command, versions, commit and machine of a run's last start, and its id for trackers."""
    path = folder / ENVIRONMENT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): delete it, the run goes on without") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no named values: delete it, the run goes on without")
    for key, kind in {"run_id": str, "command": str, "versions": dict}.items():
        if not isinstance(content.get(key, kind()), kind):
            raise UserError(f"{path} has {key}={str(content[key])[:40]}: delete it, the run goes on without")
    return content


def read_results(folder: Path, shown: bool = False) -> dict[str, Any] | None:
    """The results of a finished run: whole, with a row a budget; `shown`: with all that the run prints of them."""
    path = folder / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check(content, {**_RESULTS, **(_SHOWN if shown else {})})
        Budgets(content["trained_budgets"])
        for made in (content, content["raw"]) if content.get("raw") else (content,):
            _check_rows(made)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is broken or cut off ({first_line(error)}): delete it, and `{command_of(folder)}` "
                        f"makes it again from the checkpoint") from error
    return content


def command_of(folder: Path) -> str:
    """The command line that a run came from, or words for it."""
    try:
        return (read_environment(folder) or {}).get("command") or "the same command"
    except UserError:
        return "the same command"


def row_of(results: dict[str, Any], budget: float) -> dict[str, Any] | None:
    """The row of a budget, where the results have one."""
    return next((row for row in results["rows"] if row["budget"] == budget), None)


def _check_rows(content: dict[str, Any]) -> None:
    """Raise ValueError unless `content` has rows, each whole and of a budget of its own."""
    if not isinstance(content.get("rows"), list) or not content["rows"]:
        raise ValueError("it has no rows")
    for row in content["rows"]:
        _check(row, _ROW)
        if not 0 <= row["top1"] <= 100:
            raise ValueError(f"'top1' is {row['top1']}")
    Budgets(row["budget"] for row in content["rows"])


def _check(content: Any, needs: dict[str, Any]) -> None:
    """Raise ValueError unless `content` has the keys with values of these types, and numbers that are finite."""
    if not isinstance(content, dict):
        raise ValueError(f"{str(content)[:20]!r} is no set of named values")
    asked = {**{key: kind for key, kind in _MAYBE.items() if content.get(key) is not None}, **needs}
    for key, kind in asked.items():
        value = content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"'{key}' is {'missing' if key not in content else repr(value)[:40]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"'{key}' is {value}")
        if key in _ABOVE_ZERO and value <= 0:
            raise ValueError(f"'{key}' is {value}")
