"""Settings that hold paths: what of them is the same on any machine, and for any seed."""
from __future__ import annotations

import re
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


def for_seed(value: Any, own: int, other: int) -> Any:
    """The same setting for another seed, where it names a run of one's own: dense-seed0 becomes dense-seed1."""
    if isinstance(value, list):
        return [for_seed(each, own, other) for each in value]
    return re.sub(rf"(seed[=_-]?){own}(?!\d)", rf"\g<1>{other}", value) if isinstance(value, str) else value
