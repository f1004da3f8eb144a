"""The images that bdsa-visualize shows: of the data set's split or from files, as the network sees them."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from timm.data import ImageNetInfo
from torch import Tensor
from torch.utils.data import Subset

from bdsa.config.image_size import ImageSize
from bdsa.config.settings import DataConfig
from bdsa.data.datasets import Splits, get_split
from bdsa.data.image_files import folder_names
from bdsa.data.image_modes import MODES
from bdsa.data.reading import read_image
from bdsa.data.subset import limited
from bdsa.data.transforms import augmentation_for, check_transforms, eval_transform, normalisation, pixels


@dataclass
class ShownImages:
    """Images with what is known of them.

    Attributes:
        images: float32 [N, C, H, W], normalised, as the network takes them.
        pixels: float32 [N, 3, H, W] in 0..1: the same in colour, no longer normalised.
        names: unique, each fit for a folder's name.
        sources: the file, or the place in the split.
        labels: the true class of each, None where it is not known.
        classes: a readable name for each class of the network.
        available: how many images there were to choose from.
        notes: sentences that a user should see.
    """
    images: Tensor
    pixels: Tensor
    names: list[str]
    sources: list[str]
    labels: list[int | None]
    classes: list[str]
    available: int
    notes: list[str] = field(default_factory=list)

    def true_class(self, index: int) -> str | None:
        """The readable name of an image's true class, None where it is not known."""
        label = self.labels[index]
        return None if label is None else self.classes[label]

    def true_classes(self) -> list[str | None]:
        """The readable name of each image's true class."""
        return [self.true_class(index) for index in range(len(self.names))]


def from_split(splits: Splits, split: str, count: int) -> ShownImages:
    """`count` images of a split, always the same ones: those of the training's own mask picture."""
    dataset = splits.train_eval if split == "train" else get_split(splits, split)
    dataset.draw()
    chosen = limited(dataset, count)
    indices = sorted(chosen.indices) if isinstance(chosen, Subset) else list(range(len(dataset)))
    samples = [dataset[index] for index in indices]
    images = torch.stack([image for image, _ in samples])
    files = getattr(dataset.source, "samples", None)  # image folders know theirs
    return ShownImages(images, pixels(images, splits.mean, splits.std),
                       names=[f"{split}-{index:0{len(str(len(dataset) - 1))}d}" for index in indices],
                       sources=[files[i][0] if files else f"{splits.name}, {split}, image {i}" for i in indices],
                       labels=[label for _, label in samples], classes=readable(splits.classes, len(splits.classes)),
                       available=len(dataset), notes=list(splits.notes))


def from_files(paths: list[Path], count: int | None, data: DataConfig, image_size: ImageSize,
               classes: list[str] | None, num_classes: int) -> ShownImages:
    """Files brought to the network's size as in evaluation: shorter side, centre crop.

    Args:
        count: at most so many, drawn from all, always the same ones; None for all.
        data: for the channels and their normalisation, and the resize where it is set.
        image_size: a square's side, or [height, width].
        classes: a file in a folder of such a name is of that class; None where names are not known.
        num_classes: how many there are.

    Raises:
        UserError: for a file that is not an image, or a number in `data` out of its range.
    """
    channels = data.channels or 3
    mean, std = normalisation(data.mean, data.std, channels)
    check_transforms(data.augmentation, image_size, data.resize, mean, std, channels=channels)
    augmentation = augmentation_for(data.augmentation, image_size if isinstance(image_size, int) else None)
    transform = eval_transform(augmentation, image_size, data.resize, None, mean, std)
    chosen = limited(paths, count)
    indices = sorted(chosen.indices) if isinstance(chosen, Subset) else range(len(paths))
    names, shown = folder_names(paths), [paths[index] for index in indices]
    images = torch.stack([transform(read_image(str(path), MODES[channels])) for path in shown])
    number = {name: label for label, name in enumerate(classes or [])}
    return ShownImages(images, pixels(images, mean, std), [names[i] for i in indices], [str(p) for p in shown],
                       [number.get(path.absolute().parent.name) for path in shown],
                       readable(classes, num_classes), len(paths))


def readable(classes: list[str] | None, count: int) -> list[str]:
    """A name for each of `count` classes: their own; in words for ImageNet's synsets; else "class 7"."""
    if classes is None:
        return [f"class {label}" for label in range(count)]
    if all(re.fullmatch(r"n\d{8}", name) for name in classes):
        words = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
        return [words.get(name, name).split(",")[0] for name in classes]
    return list(classes)


def imagenet_synsets() -> list[str]:
    """The 1000 classes of ImageNet-1k, in the order that every published network has."""
    return list(ImageNetInfo().label_names())
