"""Settings that hold paths: what of them is the same on any machine, and for any seed."""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bdsa.config.names import with_file

PLACES = {"data.root", "model.weights", "model.start", "teacher.weights", "teacher.others"}  # paths, of a machine each


def place_name(place: Any) -> str:
    """What tells a path from others on any machine: its last part, and of a run's checkpoint the run's name too.

    Networks of several seeds may start from a run of their own seed each, dense-seed0 and dense-seed1: they have one
    name.
    """
    *_, run, folder, name = ("", "", *str(place).rstrip("/").split("/"))
    own = re.sub(r"(seed[=_-]?)\d+", r"\1*", run)
    return f"{own}/{name}" if folder == "checkpoints" else name


def place_names(value: Any) -> Any:
    """A setting that holds a path, or a list of them behind models' names (`teacher.others`), by `place_name`."""
    if not isinstance(value, list):
        return place_name(value)
    return [with_file(each, place_name) for each in value]


def for_seed(known: Mapping[int, Any], seed: int) -> Any:
    """A setting that holds a path, as runs of some seeds have it, for a run of another.

    Where seeds have runs of their own, dense-seed0/checkpoints/best.pt becomes dense-seed1/checkpoints/best.pt; what
    they share stays.

    Args:
        known: seed -> the setting's value; at least one.
    """
    if seed in known:
        return known[seed]
    own, value = next(iter(known.items()))
    if all(other == value for other in known.values()):
        return value

    def turned(place: Any) -> Any:
        head, mark, file = str(place).rpartition("/checkpoints/")
        parent, slash, run = head.rpartition("/")
        return f"{parent}{slash}" + re.sub(rf"(seed[=_-]?){own}(?!\d)", rf"\g<1>{seed}", run) + mark + file

    return [with_file(each, turned) for each in value] if isinstance(value, list) else turned(value)
