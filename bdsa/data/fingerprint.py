"""Which images a training reads, in a few words a class: a run that goes on notices that one has gone or come."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from bdsa.data.image_folder import ClassFolders

Fingerprint = dict[str, list[Any]]  # class -> [images, digest of their names and sizes]


def fingerprint(source: Dataset, classes: Sequence[str]) -> Fingerprint:
    """Of an image folder: names and sizes; of another source with `targets`: counts; else the length alone."""
    files, targets = source.files if isinstance(source, ClassFolders) else None, getattr(source, "targets", None)
    if targets is None:
        return {"": [len(source), ""]}  # type: ignore[arg-type]  # every source has a length
    counts = np.bincount(np.asarray(targets, dtype=np.int64), minlength=len(classes)).tolist()
    if files is None:
        return {name: [count, ""] for name, count in zip(classes, counts)}
    digests = [hashlib.blake2b(digest_size=16) for _ in classes]
    for (path, size), label in zip(files, targets):
        digests[label].update(f"{path}\0{size}\0".encode(errors="surrogateescape"))
    return {name: [count, digest.hexdigest()] for name, count, digest in zip(classes, counts, digests)}


def difference(before: object, now: Fingerprint) -> str:
    """What has changed, in words, or an empty string; also where nothing is known of before."""
    if not isinstance(before, dict):
        return ""
    known = {str(name): _entry(value) for name, value in before.items()}
    changed = [_change(name, known.get(name, [0, ""]), now.get(name, [0, ""]))
               for name in sorted({*known, *now}) if known.get(name) != now.get(name)]
    return "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")


def _entry(value: object) -> list[Any]:
    """[images, digest] as a checkpoint has it."""
    sound = isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], int)
    return list(value) if sound else [0, ""]  # type: ignore[call-overload]


def _change(name: str, before: list[Any], now: list[Any]) -> str:
    what = f"class '{name}'" if name else "the data set"
    if before[0] != now[0]:
        return f"{what} had {before[0]:,} images and has {now[0]:,}"
    return f"{what} has {now[0]:,} images as before, but of other names or sizes"
