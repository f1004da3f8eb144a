"""What a data set is asked for (DataSpec), what it hands back (Sources), and the table of names."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from torch.utils.data import Dataset

from bdsa.config.data import DataSpec
from bdsa.errors import UserError, unknown

# Fields that only some data sets read: setting one for another data set deserves a note.
_OPTIONAL = ("root", "train_images", "val_images", "test_images", "download")


@dataclass
class Sources:
    """What a builder returns: data sets of (PIL RGB image, int label), nothing augmented yet.

    Fields:
        train, val, test: map-style data sets; `val` may be the same object as `test`. `train.targets`,
            the label of each image, is what `data.held_out` needs. `train` is `Absent` where only
            evaluations are possible.
        classes: the name of each label.
        native_size: side of the images when all are square and of one size; None when they vary.
        natural_size: side of most of them, as far as a look at a few can tell; the image size that
            is taken for small ones when none is asked for.
        notes: sentences that a user should see, such as "val is the test split".
    """

    train: Dataset
    val: Dataset
    test: Dataset | None
    classes: list[str]
    native_size: int | None = None
    natural_size: int | None = None
    notes: list[str] = field(default_factory=list)


class Absent(Dataset):
    """Training images that are not there: what an evaluation does without, and a training is told of.

    Args:
        reason: what is said to whoever asks for one of them.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    @property
    def targets(self) -> list[int]:
        raise UserError(self.reason)

    def __len__(self) -> int:
        raise UserError(self.reason)

    def __getitem__(self, index: int) -> Any:
        raise UserError(self.reason)


@dataclass(frozen=True)
class Entry:
    """A registered builder, the image size when none is asked for, and the optional fields it reads."""

    build: Callable[[DataSpec], Sources]
    image_size: int
    reads: tuple[str, ...]


_ENTRIES: dict[str, Entry] = {}


def register_dataset(name: str, image_size: int = 224, reads: tuple[str, ...] = _OPTIONAL) -> Callable:
    """Decorator that makes a builder available as `data.name=<name>`.

    Args:
        name: a new name.
        image_size: the size when `DataSpec.image_size` is None; the builder always sees a number.
        reads: which of root, train_images, val_images, test_images and download it reads.

    Raises:
        UserError: if the name is taken.
    """
    def add(build: Callable[[DataSpec], Sources]) -> Callable[[DataSpec], Sources]:
        if name in _ENTRIES:
            raise UserError(f"data set '{name}' is registered already: choose another name")
        _ENTRIES[name] = Entry(build, image_size, reads)
        return build
    return add


def dataset_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_ENTRIES)


def entry(name: str) -> Entry:
    """The entry of a name, or UserError with the nearest spelling."""
    if name not in _ENTRIES:
        raise unknown("data set", name, dataset_names())
    return _ENTRIES[name]


def ignored_fields(spec: DataSpec) -> list[str]:
    """The optional fields that are set although this data set does not read them."""
    default = {f.name: f.default for f in fields(DataSpec)}
    reads = entry(spec.name).reads
    return [f for f in _OPTIONAL if f not in reads and getattr(spec, f) != default[f]]
