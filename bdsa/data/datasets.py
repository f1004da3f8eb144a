"""From a DataSpec to the splits that training and evaluation read.

A further data set is a function from DataSpec to Sources under `@register_dataset("name")`.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch.utils.data import Dataset

from bdsa.config.image_size import ImageSize, height_width, in_words
from bdsa.data import cifar, image_folder  # noqa: F401  they register themselves
from bdsa.data.class_names import outputs_by_name
from bdsa.data.cluttered_digits import ClutteredDigits, check_digits
from bdsa.data.fingerprint import Fingerprint, fingerprint
from bdsa.data.held_out import check_held_out, hold_out
from bdsa.data.items import TransformedDataset, check_targets, told
from bdsa.data.registry import Absent, DataSpec, Sources, dataset_names, entry, ignored_fields, register_dataset
from bdsa.data.subset import Rows
from bdsa.data.transforms import (
    SMALL,
    Transform,
    augmentation_for,
    check_extras,
    check_transforms,
    eval_transform,
    normalisation,
    train_transform,
)
from bdsa.errors import UserError, unknown
from bdsa.ranks import put_back

__all__ = ["DataSpec", "Sources", "Splits", "TransformedDataset", "create_splits", "dataset_names",
           "get_split", "register_dataset"]

DRAWN = ("train", "val", "test")
SPLITS = (*DRAWN, "held_out")


@dataclass
class Splits:
    """The images of one data set, ready for the loaders; each item is (float32 [C, H, W], int).

    Fields:
        train: augmented, without the images held out.
        val: the data set's validation images.
        test: None when the data set has none.
        held_out: the training images of `data.held_out`, with the evaluation transform, or None.
        train_eval: the training images with the evaluation transform, to calibrate thresholds.
        classes: the name of each label.
        image_size: pixels of the square's side, or [height, width].
        mean, std: of the normalisation, a fraction of full brightness a channel.
        name: the data set's registered name.
        notes: sentences that a user should see.
    """

    train: TransformedDataset
    val: TransformedDataset
    test: TransformedDataset | None
    held_out: TransformedDataset | None
    train_eval: TransformedDataset
    classes: list[str]
    image_size: ImageSize
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
    def channels(self) -> int:
        """C of the images."""
        return len(self.mean)

    def named_as(self, classes: Sequence[str], source: object) -> Splits:
        """The same images for a network with outputs of these names: labels are its outputs, matched by name.

        Args:
            classes: the names of the network's outputs.
            source: what to call the network in errors.

        Raises:
            UserError: if a class of the data is none of the network's.
        """
        if list(classes) == self.classes:
            return self
        outputs = outputs_by_name(self.classes, classes, source)
        test = None if self.test is None else self.test.labelled_by(outputs)
        return replace(self, train=self.train.labelled_by(outputs), test=test,
                       val=test if test is not None and self.val is self.test else self.val.labelled_by(outputs),
                       held_out=None if self.held_out is None else self.held_out.labelled_by(outputs),
                       train_eval=self.train_eval.labelled_by(outputs), classes=list(classes))

    def fingerprint(self) -> dict[str, Fingerprint]:
        """Which images a training reads, by split: to train on, those held out among them, and to choose by."""
        sources = {"train": self.train.source, "val": self.val.source}
        return {split: fingerprint(source.source if isinstance(source, Rows) else source, self.classes)
                for split, source in sources.items()}

    def digest(self, split: str) -> str:
        """Of the images of a split, as `fingerprint` tells them apart: equal where they are the same."""
        source = (self.train_eval if split == "train" else get_split(self, split)).source
        images = fingerprint(source.source if isinstance(source, Rows) else source, self.classes)
        return hashlib.blake2b(json.dumps(images, sort_keys=True).encode(), digest_size=16).hexdigest()

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
        UserError: for an unknown name or augmentation, a number out of range, a data set that is
            not on disk in the expected layout, or an own one that raises or lists a wrong label.
    """
    known = entry(spec.name)
    size = known.image_size if spec.image_size is None else spec.image_size
    channels = spec.channels or 3
    mean, std = normalisation(spec.mean, spec.std, channels)
    decided = spec.image_size is not None  # else small images are taken as they are, once one is seen
    check_transforms(spec.augmentation, size, spec.resize if decided else None, mean, std, spec.border, channels)
    check_held_out(spec.held_out)
    check_extras(spec.rand_augment, spec.random_erasing, channels)
    notes = [f"data.{name} is ignored: data set '{spec.name}' does not read it" for name in ignored_fields(spec)]

    sources = _sources(replace(spec, image_size=size, channels=channels))
    natural = sources.natural_size or sources.native_size
    if spec.image_size is None and natural is not None and natural <= SMALL:
        size = natural
    check_transforms(spec.augmentation, size, spec.resize, mean, std, spec.border, channels)
    options = (augmentation_for(spec.augmentation, natural), size, spec.resize, sources.native_size, mean, std)
    training = train_transform(*options, spec.rand_augment, spec.random_erasing, spec.border)
    evaluation = eval_transform(*options)

    def seen(source: Dataset, split: str, transform: Transform = evaluation) -> TransformedDataset:
        return TransformedDataset(source, transform, f"data set '{spec.name}', {split}", len(sources.classes),
                                  (channels, *height_width(size)))

    test = None if sources.test is None else seen(sources.test, "test")
    val = test if test is not None and sources.val is sources.test else seen(sources.val, "val")
    train, held_out = sources.train, None
    if spec.held_out is not None:
        train, kept = hold_out(train, spec.held_out, spec.seed, sources.classes)
        held_out = seen(kept, "train")
    return Splits(train=seen(train, "train", training), val=val, test=test, held_out=held_out,
                  train_eval=seen(train, "train"),
                  classes=list(sources.classes), image_size=size, mean=mean, std=std, name=spec.name,
                  notes=notes + sources.notes)


def _sources(spec: DataSpec) -> Sources:
    """What the builder of a data set hands back, checked as far as that needs no image."""
    try:
        sources = entry(spec.name).build(spec)
        if not isinstance(sources, Sources):
            raise TypeError(f"its builder returns a {type(sources).__name__} and not bdsa.Sources")
        sources.classes = [str(name) for name in sources.classes]  # numbers and NumPy's too: files hold plain text
        if not sources.classes or sources.val is None:
            raise TypeError("it has no val: give its test images as both" if sources.classes else "it names no class")
        for split in DRAWN:
            if not isinstance(getattr(sources, split), (Absent, type(None))):
                check_targets(getattr(sources, split), len(sources.classes), f"data set '{spec.name}', {split}")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if put_back(error):
            raise
        raise UserError(f"data set '{spec.name}' cannot be built: {told(error)}") from error
    return sources


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
    size, width = height_width(spec.image_size)
    if size != width:
        raise UserError(f"image size {in_words(spec.image_size)} does not suit cluttered_digits, which draws squares: "
                        f"give data.image_size={size}")
    counts = {split: check_digits(split, size, spec.seed, getattr(spec, f"{split}_images")) for split in DRAWN}
    drawn = {split: ClutteredDigits(split, size, spec.seed, counts[split]) for split in DRAWN}
    return Sources(drawn["train"], drawn["val"], drawn["test"], ClutteredDigits.classes, native_size=size)
