"""What a data set is asked for; apart from the builders, so that the config can be read without torch."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DataSpec:
    """A data set by name, its size and its augmentation: plain values only.

    Fields:
        name: a registered name.
        root: folder on disk (folder, cifar10, cifar100).
        image_size: side of the square image that the network sees; None means the data set's own:
            for a folder the images' size where they are small and all alike, else 224.
        mean, std: of each channel, as fractions of full brightness; None means ImageNet's.
        augmentation: none, crop (padded random crop), crop_flip, resized_crop_flip, or auto:
            crop_flip for small images that are all alike, resized_crop_flip for others.
        resize: shorter side before the evaluation's centre crop; None means 256/224 of image_size
            for resized_crop_flip, otherwise image_size itself.
        seed: which images a generated data set draws.
        train_images, val_images, test_images: how many it draws; None means its defaults.
        download: fetch the archive of cifar10 or cifar100 when it is missing.
    """

    name: str = "cluttered_digits"
    root: str | None = None
    image_size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    augmentation: str = "crop"
    resize: int | None = None
    seed: int = 0
    train_images: int | None = None
    val_images: int | None = None
    test_images: int | None = None
    download: bool = False
