"""From a PIL image to the normalised tensor: augmentation for training, resize and crop for evaluation."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import Compose, v2

from bdsa.config.image_size import ImageSize, height_width, in_words
from bdsa.data.crops import Cover, PaddedCrop, ReflectedCrop
from bdsa.data.image_modes import MODES, in_mode
from bdsa.data.rand_augment import check_policy, rand_augment
from bdsa.errors import UserError, unknown

AUGMENTATIONS = ("auto", "none", "crop", "crop_flip", "resized_crop_flip")
BORDERS = ("black", "reflect")
SMALL = 96  # pixels: up to here images are shown as they are, beyond it they are cut out and resized
_IMAGENET_RESIZE = 256 / 224

Transform = Callable[[Image.Image], torch.Tensor]


class ToNormalized:
    """PIL image -> (x / 255 - mean) / std as float32 [C, H, W], with one product and one sum.

    On small images this is several times as fast as torchvision's three steps for the same, whose
    results agree up to rounding. The image has as many channels as mean and std.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        self.scale = (1 / (255 * deviation)).float()
        self.shift = (-torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1) / deviation).float()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        values = np.array(image)
        if values.ndim == 2:  # grey
            values = values[..., None]
        pixels = torch.from_numpy(values).permute(2, 0, 1).contiguous()    # [C, H, W] uint8
        return pixels.float().mul_(self.scale).add_(self.shift)


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None,
                  channels: int) -> tuple[list[float], list[float]]:
    """(mean, std) of each channel: those given, or ImageNet's, of grey its mean, of opacity a half."""
    def default(colours: Sequence[float]) -> list[float]:
        return {1: [sum(colours) / 3], 3: list(colours), 4: [*colours, 0.5]}[channels]
    return (list(default(IMAGENET_DEFAULT_MEAN) if mean is None else mean),
            list(default(IMAGENET_DEFAULT_STD) if std is None else std))


def check_transforms(augmentation: str, image_size: ImageSize, resize: int | None,
                     mean: Sequence[float], std: Sequence[float], border: str = "black", channels: int = 3) -> None:
    """Raise UserError for an unknown augmentation or a number out of its range."""
    if augmentation not in AUGMENTATIONS:
        raise unknown("augmentation", augmentation, AUGMENTATIONS)
    if border not in BORDERS:
        raise unknown("border", border, BORDERS)
    shorter = min(height_width(image_size))
    if shorter < 8:
        raise UserError(f"image size {in_words(image_size)} is below 8 pixels, the smallest that is accepted")
    if resize is not None and resize < shorter:
        raise UserError(f"resize {resize} is below the image size {in_words(image_size)}: the centre crop would not "
                        f"fit")
    fractions = f"{channels} fraction{'s' * (channels > 1)} of full brightness, one a channel"
    if len(mean) != channels or not all(0 <= v <= 1 for v in mean):
        raise UserError(f"mean {list(mean)} is not {fractions}, each from 0 to 1")
    if len(std) != channels or not all(0 < v <= 1 for v in std):
        raise UserError(f"std {list(std)} is not {fractions}, each above 0 and up to 1")


def check_extras(policy: str | None, random_erasing: float, channels: int = 3) -> None:
    """Raise UserError for a RandAugment policy that is none, or a probability out of its range."""
    if policy is not None:
        check_policy(policy)
        if channels == 4:
            raise UserError(f"data.rand_augment={policy} changes grey and coloured images, not those with opacity: "
                            f"leave it out with data.channels=4")
    if not 0 <= random_erasing <= 1:
        raise UserError(f"data.random_erasing={random_erasing} is not a probability from 0 to 1")


def pixels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised images [N, C, H, W] as they are shown: [N, 3, H, W] in 0..1, what is transparent over white."""
    shown = (images * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]).clamp(0, 1)
    if shown.shape[1] == 4:
        colours, opacity = shown[:, :3], shown[:, 3:]
        return colours * opacity + (1 - opacity)
    return shown.expand(-1, 3, -1, -1)


def augmentation_for(asked: str, natural_size: int | None) -> str:
    """What "auto" means for images of one small size (CIFAR's crop and flip) and for others (ImageNet's)."""
    if asked != "auto":
        return asked
    return "crop_flip" if natural_size is not None and natural_size <= SMALL else "resized_crop_flip"


def eval_transform(augmentation: str, image_size: ImageSize, resize: int | None, native_size: int | None,
                   mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Resize the shorter side, crop the centre, normalise: PIL -> [C, H, W] float32, C as in mean and std.

    Args:
        resize: shorter side before the crop. Of a rectangle: of the rectangle in its proportions that the image is
            resized to cover.
        native_size: side of images that are all square and of one size, so that steps which would
            change nothing are left out; None when sizes vary.
    """
    if resize is None and augmentation == "resized_crop_flip":
        resize = round(min(height_width(image_size)) * _IMAGENET_RESIZE)
    return Compose([_Channels(mean), *_centred(image_size, resize, native_size), ToNormalized(mean, std)])


def train_transform(augmentation: str, image_size: ImageSize, resize: int | None, native_size: int | None,
                    mean: Sequence[float], std: Sequence[float], policy: str | None = None,
                    random_erasing: float = 0.0, border: str = "black") -> Transform:
    """The augmentation by its name, the extras, then normalisation: PIL -> [C, H, W] float32, C as in mean and std.

    The random numbers are the global ones of torch, random and numpy; `bdsa.data.loaders` seeds them
    for every sample.
    """
    height, width = height_width(image_size)
    if augmentation == "none":
        steps = _centred(image_size, resize, native_size)
    elif augmentation == "resized_crop_flip":
        shape = width / height  # the crop's own varies around it
        steps = [v2.RandomResizedCrop((height, width), ratio=(3 / 4 * shape, 4 / 3 * shape), antialias=True)]
    else:
        steps = _resized(image_size, resize, native_size)
        crop = ReflectedCrop if border == "reflect" else PaddedCrop
        steps.append(crop((height, width), padding=(height // 8, width // 8)))    # 4 pixels at 32
    if augmentation.endswith("flip"):
        steps.append(v2.RandomHorizontalFlip())
    if policy is not None:
        steps.append(rand_augment(policy, min(height, width), mean))
    steps.append(ToNormalized(mean, std))
    if random_erasing:
        steps.append(RandomErasing(random_erasing, mode="pixel", device="cpu"))  # noise as a normalised image has it
    return Compose([_Channels(mean), *steps])


class _Channels:
    """An image of any mode in as many channels as `mean` has."""

    def __init__(self, mean: Sequence[float]) -> None:
        self.mode = MODES[len(mean)]

    def __call__(self, image: Image.Image) -> Image.Image:
        return in_mode(image, self.mode)


def _centred(image_size: ImageSize, resize: int | None, native_size: int | None) -> list[Callable]:
    sides = height_width(image_size)
    steps = _resized(image_size, resize, native_size)
    return [*steps, v2.CenterCrop(sides)] if steps or resize not in (None, min(sides)) else []


def _resized(image_size: ImageSize, resize: int | None, native_size: int | None) -> list[Callable]:
    height, width = height_width(image_size)
    shorter = resize or min(height, width)
    if height == width:
        return [] if shorter == native_size else [v2.Resize(shorter, antialias=True)]
    scale = shorter / min(height, width)
    return [Cover((max(height, round(height * scale)), max(width, round(width * scale))))]
