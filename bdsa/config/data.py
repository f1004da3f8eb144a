"""What a data set is asked for; apart from the builders, so that the config can be read without torch."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from bdsa.config.image_size import check_image_size
from bdsa.config.setting import setting
from bdsa.errors import UserError

CHANNELS = (1, 3, 4)
Spec = TypeVar("Spec", bound="DataSpec")


def check_channels(channels: int) -> None:
    """Raise UserError for a number of channels that images are not read with."""
    if channels not in CHANNELS:
        raise UserError(f"data.channels={channels} is not read: images have 1 (grey), 3 (colour) or 4 channels (with "
                        f"opacity)")


def for_network(spec: Spec, channels: int | None, source: object) -> Spec:
    """The data as a network reads them.

    Args:
        channels: of its images; None where the data decide.
        source: what to call it in errors.

    Raises:
        UserError: if images are not read with so many, or others are asked for.
    """
    if channels is None:
        return replace(spec, channels=spec.channels or 3)
    if channels not in CHANNELS:
        raise UserError(f"{source} reads images of {channels} channels, and images have 1 (grey), 3 (colour) or 4 "
                        f"(with opacity)")
    if spec.channels not in (None, channels):
        raise UserError(f"data.channels={spec.channels}, but {source} reads {channels}: leave out data.channels")
    return replace(spec, channels=channels)


@dataclass
class DataSpec:
    """A data set by name, its size and its augmentation: plain values only."""
    name: str = setting("cluttered_digits", "cluttered_digits | folder | cifar10 | cifar100 | a plug-in's")
    root: str | None = setting(None, "folder on disk (folder, cifar10, cifar100)")
    image_size: Any = setting(None, "pixels, or [height,width]; default: the data set's, small alike images as they "
                                    "are, else 224", check=partial(check_image_size, "data.image_size"))
    channels: int | None = setting(None, "1: grey, 3: colour, 4: with opacity; default: as the network reads "
                                         "(model.args.in_chans), else 3", check=check_channels)
    mean: list[float] | None = setting(None, "of each channel, as fractions of full brightness; default: ImageNet's",
                                       at_least=-100, at_most=100)
    std: list[float] | None = setting(None, "likewise", above=0, at_most=100)
    augmentation: str = setting("crop", "none | crop | crop_flip (CIFAR's) | resized_crop_flip (ImageNet's) | auto")
    border: str = setting("black", "what crop and crop_flip show from outside the image: black | reflect")
    rand_augment: str | None = setting(None, "timm's policy after the crop and flip, such as rand-m9-mstd0.5-inc1")
    random_erasing: float = setting(0.0, "probability that a rectangle becomes noise", at_least=0, at_most=1)
    resize: int | None = setting(None, "evaluation: shorter side before the centre crop; default: 256/224 or none",
                                 above=0, at_most=65536)
    held_out: float | None = setting(None, "training images kept to choose the epoch by: a number, or a fraction",
                                     above=0, at_most=1e9)
    seed: int = setting(0, "which images a generated data set draws, and which are held out",
                        at_least=0, at_most=2**63 - 1)
    train_images: int | None = setting(None, "how many it draws", above=0, at_most=1e8)
    val_images: int | None = setting(None, "likewise", above=0, at_most=1e8)
    test_images: int | None = setting(None, "likewise", above=0, at_most=1e8)
    download: bool = setting(False, "fetch cifar10 or cifar100 when it is missing")
