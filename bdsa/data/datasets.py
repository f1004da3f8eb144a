"""From a DataSpec to the splits that training and evaluation read.

A further data set is a function from DataSpec to Sources under `@register_dataset("name")`.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import Dataset

from bdsa.data import cifar, image_folder  # noqa: F401  they register themselves
from bdsa.data.cluttered_digits import ClutteredDigits, check_digits
from bdsa.data.held_out import check_held_out, hold_out
from bdsa.data.registry import DataSpec, Sources, dataset_names, entry, ignored_fields, register_dataset
from bdsa.data.transforms import (
    SMALL,
    Transform,
    augmentation_for,
    check_extras,
    check_transforms,
    eval_transform,
    train_transform,
)
from bdsa.errors import UserError, unknown

__all__ = ["DataSpec", "Sources", "Splits", "TransformedDataset", "create_splits", "dataset_names",
           "get_split", "register_dataset"]

DRAWN = ("train", "val", "test")
SPLITS = (*DRAWN, "held_out")


class TransformedDataset(Dataset):
    """A source of (PIL image, label) seen through a transform: (float32 [3, H, W], int).

    `source` stays reachable, for what only it knows, such as the boxes of ClutteredDigits.
    """

    def __init__(self, source: Dataset, transform: Transform) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]  # torch promises no length; every source has one

    def draw(self) -> None:
        """Draw a generated source's images now, before workers are forked; does nothing for others."""
        getattr(self.source, "draw", lambda: None)()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.source[index]
        return self.transform(image), int(label)


@dataclass
class Splits:
    """The images of one data set, ready for the loaders; each item is (float32 [3, S, S], int).

    Fields:
        train: augmented, without the images held out.
        val: the data set's validation images.
        test: None when the data set has none.
        held_out: the training images of `data.held_out`, with the evaluation transform, or None.
        train_eval: the training images with the evaluation transform, to calibrate thresholds.
        classes: the name of each label.
        image_size: S in pixels.
        mean, std: of the normalisation, three fractions of full brightness each.
        name: the data set's registered name.
        notes: sentences that a user should see.
    """

    train: TransformedDataset
    val: TransformedDataset
    test: TransformedDataset | None
    held_out: TransformedDataset | None
    train_eval: TransformedDataset
    classes: list[str]
    image_size: int
    mean: list[float]
    std: list[float]
    name: str
    notes: list[str] = field(default_factory=list)

    @property
    def reported(self) -> str:
        """Name of the split that results are measured on, unless another is asked for."""
        return "val" if self.test is None else "test"

    @property
    def validated_on(self) -> str:
        """Name of the split that chooses the best epoch and weighs the budgets: held_out, val, or test where val is
        the test split."""
        if self.held_out is not None:
            return "held_out"
        return "test" if self.val is self.test else "val"

    @property
    def validation(self) -> TransformedDataset:
        """The images of `validated_on`."""
        return getattr(self, self.validated_on)

    @property
    def choice(self) -> str:
        """A sentence for the user: which images choose the epoch, and which are reported."""
        images = f"{len(self.validation):,} images of {self.validated_on}"
        if self.validated_on != self.reported:
            return f"the best epoch is chosen on the {images}; the results are those of {self.reported}"
        return (f"the best epoch is chosen on the {images}, which are reported too; data.held_out=0.1 would choose it "
                f"on training images")


def create_splits(spec: DataSpec) -> Splits:
    """Build the splits that a spec names; every option is checked before anything is read or drawn.

    Raises:
        UserError: for an unknown name or augmentation, a number out of range, or a data set that is
            not on disk in the expected layout.
    """
    known = entry(spec.name)
    size = known.image_size if spec.image_size is None else spec.image_size
    mean = list(IMAGENET_DEFAULT_MEAN if spec.mean is None else spec.mean)
    std = list(IMAGENET_DEFAULT_STD if spec.std is None else spec.std)
    check_transforms(spec.augmentation, size, spec.resize, mean, std, spec.border)
    check_held_out(spec.held_out)
    check_extras(spec.rand_augment, spec.random_erasing)
    notes = [f"data.{name} is ignored: data set '{spec.name}' does not read it" for name in ignored_fields(spec)]

    sources = known.build(replace(spec, image_size=size))
    natural = sources.natural_size or sources.native_size
    if spec.image_size is None and natural is not None and natural <= SMALL:
        size = natural
    options = (augmentation_for(spec.augmentation, natural), size, spec.resize, sources.native_size, mean, std)
    evaluation = eval_transform(*options)
    test = None if sources.test is None else TransformedDataset(sources.test, evaluation)
    val = test if test is not None and sources.val is sources.test else TransformedDataset(sources.val, evaluation)
    train, held_out = sources.train, None
    if spec.held_out is not None:
        train, kept = hold_out(train, spec.held_out, spec.seed, sources.classes)
        held_out = TransformedDataset(kept, evaluation)
    training = train_transform(*options, spec.rand_augment, spec.random_erasing, spec.border)
    return Splits(train=TransformedDataset(train, training),
                  val=val, test=test, held_out=held_out,
                  train_eval=TransformedDataset(train, evaluation),
                  classes=list(sources.classes), image_size=size, mean=mean, std=std, name=spec.name,
                  notes=notes + sources.notes)


def get_split(splits: Splits, name: str) -> TransformedDataset:
    """Return the split "train" (augmented), "val", "test" or "held_out".

    Raises:
        UserError: for another name, or one that these splits lack.
    """
    if name not in SPLITS:
        raise unknown("split", name, SPLITS)
    dataset = getattr(splits, name)
    if dataset is None:
        there = [s for s in SPLITS if getattr(splits, s) is not None]
        hint = ": data.held_out=0.1 would make one" if name == "held_out" else ""
        raise UserError(f"data set '{splits.name}' has no split '{name}'; it has {', '.join(there)}{hint}")
    return dataset


@register_dataset("cluttered_digits", image_size=48, reads=("train_images", "val_images", "test_images"))
def build_cluttered_digits(spec: DataSpec) -> Sources:
    """Draw the three splits of the embedded data set at the size asked for."""
    size = spec.image_size
    assert size is not None  # create_splits fills it in
    counts = {split: check_digits(split, size, spec.seed, getattr(spec, f"{split}_images")) for split in DRAWN}
    drawn = {split: ClutteredDigits(split, size, spec.seed, counts[split]) for split in DRAWN}
    return Sources(drawn["train"], drawn["val"], drawn["test"], ClutteredDigits.classes, native_size=size)
