"""What a data set is asked for; apart from the builders, so that the config can be read without torch."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DataSpec:
    """A data set by name, its size and its augmentation: plain values only."""
    name: str = "cluttered_digits"      # cluttered_digits | folder | cifar10 | cifar100 | a plug-in's
    root: str | None = None             # folder on disk (folder, cifar10, cifar100)
    image_size: int | None = None       # pixels; default: the data set's, small alike images as they are, else 224
    mean: list[float] | None = None     # of each channel, as fractions of full brightness; default: ImageNet's
    std: list[float] | None = None      # likewise
    augmentation: str = "crop"          # none | crop | crop_flip (CIFAR's) | resized_crop_flip (ImageNet's) | auto
    border: str = "black"               # what crop and crop_flip show from outside the image: black | reflect
    rand_augment: str | None = None     # timm's policy after the crop and flip, such as rand-m9-mstd0.5-inc1
    random_erasing: float = 0.0         # probability that a rectangle becomes noise
    resize: int | None = None           # evaluation: shorter side before the centre crop; default: 256/224 or none
    held_out: float | None = None       # training images kept to choose the epoch by: a number, or a fraction below 1
    seed: int = 0                       # which images a generated data set draws, and which are held out
    train_images: int | None = None     # how many it draws
    val_images: int | None = None       # likewise
    test_images: int | None = None      # likewise
    download: bool = False              # fetch cifar10 or cifar100 when it is missing
