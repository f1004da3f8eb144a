"""Images on disk: root/train/<class>/<image> and root/val or root/test with the same classes."""
from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from bdsa.data.image_listing import ImageListing, subfolders
from bdsa.data.image_modes import MODES
from bdsa.data.reading import read_image
from bdsa.data.registry import Absent, DataSpec, Sources, register_dataset
from bdsa.errors import UserError, nearest


def check_root(spec: DataSpec, may_be_made: bool = False) -> Path:
    """Return the data set's root as a Path; UserError if it is not given, missing or not a folder.

    Args:
        may_be_made: accept a folder that does not exist yet, because a download will make it.
    """
    if not spec.root:
        raise UserError(f"data set '{spec.name}' needs its folder: set data.root")
    root = Path(spec.root).expanduser()
    if root.exists() and not root.is_dir():
        raise UserError(f"data.root '{spec.root}' is a file: give the folder of data set '{spec.name}'")
    if not root.exists() and not may_be_made:
        siblings = subfolders(root.parent) if root.parent.is_dir() else []
        raise UserError(f"data.root '{spec.root}' does not exist{nearest(root.name, siblings)}")
    return root


@register_dataset("folder", image_size=224, reads=("root",))
def build_folder(spec: DataSpec) -> Sources:
    """Read root/train and root/val or root/test; with test alone, val is the test split. Evaluations need no train."""
    root = check_root(spec)
    present = subfolders(root)
    others = [name for name in ("val", "test") if name in present]
    listing = ", ".join(present) or "no folders"
    absent = f"'{root}' has no folder train{nearest('train', present)}; there: {listing}"
    if not others:
        raise UserError(f"'{root}' has neither val nor test{nearest('val', present)}; there: {listing}"
                        if "train" in present else absent)

    there = ["train"] * ("train" in present) + others
    classes = subfolders(root / there[0])
    for split in there:
        _check_classes(root / split, classes, there[0])
    mode = MODES[spec.channels or 3]
    read = {split: ClassFolders(root / split, classes, mode) for split in there}
    notes = []
    if others == ["test"]:
        notes.append(f"val is the test split: '{root}' has no folder val")
    return Sources(read.get("train", Absent(absent)), read[others[0]], read.get("test"), classes,
                   natural_size=_common_side(read[there[0]].paths), notes=notes)


class Paths(Sequence[str]):
    """Paths as one piece of memory.

    Each object that is read has its references counted, in its own page of memory: processes that read ahead would
    come to hold a copy of a list of a million paths each.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # one at a time
        place = range(len(self))[index]
        return os.fsdecode(self._bytes[self._ends[place]:self._ends[place + 1]])


class ClassFolders(Dataset):
    """The images of one split: (PIL image, label), a label a class folder.

    Args:
        root: holds a folder a class.
        classes: names of the folders, in the order of their labels.
        mode: what images are read as: L, RGB or RGBA.

    Attributes:
        paths: of the images.
        targets: their labels.

    Raises:
        UserError: when constructed, if a class folder holds no image; when read, for a file that is
            not an image or is cut short.
    """

    def __init__(self, root: Path, classes: list[str], mode: str = "RGB") -> None:
        self.mode, self._below = mode, len(str(root)) + 1
        listing, found = ImageListing(root, depth=1), [root / name for name in classes]
        by_class = [listing.below(folder) for folder in found]
        self.paths = Paths([path for files in by_class for path, _ in files])
        self.targets = [label for label, files in enumerate(by_class) for _ in files]
        self._sizes = np.array([size for files in by_class for _, size in files], dtype=np.int64)
        if empty := [name for name, files in zip(classes, by_class) if not files]:
            linked = " or leads to images that are counted already" * any((root / name).is_symlink() for name in empty)
            raise UserError(f"'{root}' lacks images: class folder {', '.join(empty[:5])} is empty{linked}")

    @property
    def samples(self) -> list[tuple[str, int]]:
        """(path, label) of each image, as torchvision's ImageFolder has them; made when it is asked for."""
        return list(zip(self.paths, self.targets))

    @property
    def files(self) -> list[tuple[str, int]]:
        """What tells whether the list has changed: (path below the root, bytes) of each image."""
        return [(path[self._below:], size) for path, size in zip(self.paths, self._sizes.tolist())]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.paths[index], self.mode), self.targets[index]


def _common_side(paths: Sequence[str], looked_at: int = 32) -> int | None:
    """Side of the images if a few, spread over all, are square and alike; only their headers are read."""
    sizes = set()
    for index in range(0, len(paths), max(1, len(paths) // looked_at)):
        try:
            with warnings.catch_warnings(), Image.open(paths[index]) as image:
                warnings.simplefilter("ignore")
                sizes.add(image.size)
        except Exception:  # a broken image is reported when it is read
            continue
    sides = {side for size in sizes for side in size}
    return sides.pop() if len(sides) == 1 else None


def _check_classes(directory: Path, expected: list[str], first: str) -> None:
    found = subfolders(directory)
    if not found:
        raise UserError(f"'{directory}' has no class folders: put images in {directory.name}/<class>/<image>")
    if len(found) == 1:
        raise UserError(f"'{directory}' has only one class, {found[0]}: give at least two to tell apart")
    missing, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if missing or extra:
        parts = [f"{word} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
                 for word, names in (("without", missing), ("with", extra)) if names]
        raise UserError(f"'{directory}' differs in its classes from {first}: {' and '.join(parts)}")
