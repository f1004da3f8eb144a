"""From a PIL image to the normalised tensor: augmentation for training, resize and crop for evaluation."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import Compose, v2

from bdsa.data.rand_augment import check_policy, rand_augment
from bdsa.errors import UserError, unknown

AUGMENTATIONS = ("auto", "none", "crop", "crop_flip", "resized_crop_flip")
BORDERS = ("black", "reflect")
SMALL = 96  # pixels: up to here images are shown as they are, beyond it they are cut out and resized
_IMAGENET_RESIZE = 256 / 224

Transform = Callable[[Image.Image], torch.Tensor]


class ToNormalized:
    """PIL image -> (x / 255 - mean) / std as float32 [3, H, W], with one product and one sum.

    On small images this is several times as fast as torchvision's three steps for the same, whose
    results agree up to rounding. Images of other modes are read as RGB.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
        self.scale = (1 / (255 * deviation)).float()
        self.shift = (-torch.tensor(mean, dtype=torch.float64).view(3, 1, 1) / deviation).float()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()    # [3, H, W] uint8
        return pixels.float().mul_(self.scale).add_(self.shift)


class ReflectedCrop:
    """Random crop of `size` pixels from the image with its mirror image around it, `padding` pixels wide.

    A black border, which test images do not have, is what masks learn first: they leave it out, meet
    their budgets by it, and run too much where there is none.
    """

    def __init__(self, size: int, padding: int) -> None:
        self.size, self.padding = size, padding

    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        rows, columns = (self._places(side) for side in pixels.shape[:2])
        return Image.fromarray(pixels[rows[:, None], columns])

    def _places(self, side: int) -> np.ndarray:
        """The pixels, along one side, that a random crop shows."""
        start = int(torch.randint(side + 2 * self.padding - self.size + 1, ())) - self.padding
        places = np.abs(np.arange(start, start + self.size))
        return (side - 1) - np.abs((side - 1) - places)


class PaddedCrop:
    """Random crop of `size` pixels from the image with `padding` black pixels around it.

    Pillow fills what a crop takes from outside the image with black, so nothing is padded first,
    which makes it several times as fast as torchvision's RandomCrop.
    """

    def __init__(self, size: int, padding: int) -> None:
        self.size, self.padding = size, padding

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = (self._start(side) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _start(self, side: int) -> int:
        places = side + 2 * self.padding - self.size + 1
        return int(torch.randint(places, ())) - self.padding


def check_transforms(augmentation: str, image_size: int, resize: int | None,
                     mean: Sequence[float], std: Sequence[float], border: str = "black") -> None:
    """Raise UserError for an unknown augmentation or a number out of its range."""
    if augmentation not in AUGMENTATIONS:
        raise unknown("augmentation", augmentation, AUGMENTATIONS)
    if border not in BORDERS:
        raise unknown("border", border, BORDERS)
    if image_size < 8:
        raise UserError(f"image size {image_size} is below 8 pixels, the smallest that is accepted")
    if resize is not None and resize < image_size:
        raise UserError(f"resize {resize} is below the image size {image_size}: the centre crop would not fit")
    if len(mean) != 3 or not all(0 <= v <= 1 for v in mean):
        raise UserError(f"mean {list(mean)} is not 3 fractions of full brightness, each from 0 to 1")
    if len(std) != 3 or not all(0 < v <= 1 for v in std):
        raise UserError(f"std {list(std)} is not 3 fractions of full brightness, each above 0 and up to 1")


def check_extras(policy: str | None, random_erasing: float) -> None:
    """Raise UserError for a RandAugment policy that is none, or a probability out of its range."""
    if policy is not None:
        check_policy(policy)
    if not 0 <= random_erasing <= 1:
        raise UserError(f"data.random_erasing={random_erasing} is not a probability from 0 to 1")


def augmentation_for(asked: str, natural_size: int | None) -> str:
    """What "auto" means for images of one small size (CIFAR's crop and flip) and for others (ImageNet's)."""
    if asked != "auto":
        return asked
    return "crop_flip" if natural_size is not None and natural_size <= SMALL else "resized_crop_flip"


def eval_transform(augmentation: str, image_size: int, resize: int | None, native_size: int | None,
                   mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Resize the shorter side, crop the centre, normalise: PIL -> [3, image_size, image_size] float32.

    Args:
        native_size: side of images that are all square and of one size, so that steps which would
            change nothing are left out; None when sizes vary.
    """
    if resize is None and augmentation == "resized_crop_flip":
        resize = round(image_size * _IMAGENET_RESIZE)
    return Compose([*_centred(image_size, resize, native_size), ToNormalized(mean, std)])


def train_transform(augmentation: str, image_size: int, resize: int | None, native_size: int | None,
                    mean: Sequence[float], std: Sequence[float], policy: str | None = None,
                    random_erasing: float = 0.0, border: str = "black") -> Transform:
    """The augmentation by its name, the extras, then normalisation: PIL -> [3, image_size, image_size] float32.

    The random numbers are the global ones of torch, random and numpy; `bdsa.data.loaders` seeds them
    for every sample.
    """
    if augmentation == "none":
        steps = _centred(image_size, resize, native_size)
    elif augmentation == "resized_crop_flip":
        steps = [v2.RandomResizedCrop(image_size, antialias=True)]
    else:
        steps = _resized(resize or image_size, native_size)
        crop = ReflectedCrop if border == "reflect" else PaddedCrop
        steps.append(crop(image_size, padding=image_size // 8))    # 4 pixels at 32
    if augmentation.endswith("flip"):
        steps.append(v2.RandomHorizontalFlip())
    if policy is not None:
        steps.append(rand_augment(policy, image_size, mean))
    steps.append(ToNormalized(mean, std))
    if random_erasing:
        steps.append(RandomErasing(random_erasing, mode="pixel", device="cpu"))  # noise as a normalised image has it
    return Compose(steps)


def _centred(image_size: int, shorter_side: int | None, native_size: int | None) -> list[Callable]:
    shorter_side = shorter_side or image_size
    steps = _resized(shorter_side, native_size)
    return [*steps, v2.CenterCrop(image_size)] if steps or shorter_side != image_size else []


def _resized(shorter_side: int, native_size: int | None) -> list[Callable]:
    return [] if shorter_side == native_size else [v2.Resize(shorter_side, antialias=True)]
