"""A data set's items as tensors, each held to its form: an own data set that errs is named by item, in one line."""
from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from bdsa.data.subset import Rows
from bdsa.errors import UserError
from bdsa.ranks import put_back


class TransformedDataset(Dataset):
    """A source of (PIL image, label) seen through a transform: (float32 [C, H, W], int).

    `source` stays reachable, for what only it knows, such as the boxes of ClutteredDigits.

    Args:
        source: of the images.
        transform: makes tensors of them.
        name: of the split, for errors: "data set 'mine', train".
        classes: how many labels there are.
        shape: [C, H, W] of every tensor.
        outputs: the network's output for each label; None where they are the same.
    """

    def __init__(self, source: Dataset, transform: Callable[[Image.Image], torch.Tensor], name: str, classes: int,
                 shape: tuple[int, int, int], outputs: Sequence[int] | None = None) -> None:
        self.source, self.transform = source, transform
        self.name, self.classes, self.shape, self.outputs = name, classes, shape, outputs

    def labelled_by(self, outputs: Sequence[int]) -> TransformedDataset:
        """The same items with the number of a network's output in place of each label."""
        return TransformedDataset(self.source, self.transform, self.name, self.classes, self.shape, outputs)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]  # torch promises no length; every source has one

    def draw(self) -> None:
        """Draw a generated source's images now, before workers are forked; does nothing for others."""
        getattr(self.source, "draw", lambda: None)()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """The item at an index; UserError that names it, if the source raises or gives something else."""
        if index >= len(self):
            raise IndexError(index)  # the end of a loop over all
        place = f"{self.name}, image {self.source.rows[index] if isinstance(self.source, Rows) else index}"
        try:
            image, label = self.source[index]
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            if put_back(error):
                raise
            raise UserError(f"{place} cannot be read: {told(error)}") from error
        if not isinstance(image, Image.Image):
            raise UserError(f"{place} is a {type(image).__name__}: a data set gives (PIL image, label)")
        label = check_label(label, self.classes, place)
        try:
            made = self.transform(image)
        except (OSError, ValueError) as error:  # pixels that are not read, a file that is cut short, or too few pixels
            raise UserError(f"{place} cannot be used: {told(error)}") from error
        if tuple(made.shape) != self.shape:
            raise UserError(f"{place} has {image.width} x {image.height} pixels and becomes {list(made.shape)}, not "
                            f"{list(self.shape)}: its data set says a wrong native_size")
        return made, label if self.outputs is None else self.outputs[label]


def check_label(label: Any, classes: int, place: str) -> int:
    """The label as an int, or UserError for one that is none or of no class."""
    try:
        number = operator.index(label)
    except TypeError:
        raise UserError(f"{place} has the label {str(label)[:40]!r}, which is no whole number") from None
    if not 0 <= number < classes:
        raise UserError(f"{place} has the label {number}, and there are {classes} classes: labels are 0 to "
                        f"{classes - 1}")
    return number


def check_targets(source: Dataset, classes: int, name: str) -> None:
    """Raise UserError for a source without images, or whose `targets`, if it has them, hold a wrong label."""
    if len(source) == 0:  # type: ignore[arg-type]
        raise UserError(f"{name} has no images")
    targets = getattr(source, "targets", None)
    if targets is None:
        return
    if len(targets) != len(source):  # type: ignore[arg-type]
        raise UserError(f"{name} has {len(source):,} images and {len(targets):,} targets")  # type: ignore[arg-type]
    if all(isinstance(label, (int, np.integer)) for label in targets) and 0 <= min(targets) <= max(targets) < classes:
        return
    for index, label in enumerate(targets):
        check_label(label, classes, f"{name}, image {index}")


def told(error: BaseException) -> str:
    """An error in one line: its kind, what it says, and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    said = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}{f': {said}' if said else ''}{where}"
