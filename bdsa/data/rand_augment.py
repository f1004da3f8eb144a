"""timm's RandAugment from its policy strings, checked, and kept to what Pillow accepts."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform

from bdsa.errors import UserError

# magnitude, operations an image, upper bound of the magnitude; probability of each operation; deviation
# of the magnitude; stronger with the magnitude; sets of operations.
_PART = re.compile(r"(m|n|mmax)\d+|p(0|1|[01]?\.\d+)|mstd\d+(\.\d+)?|inc[01]|t(weights|3aw?)")
_MOST = {"n": 20, "m": 100, "mmax": 100, "mstd": 1000}  # timm draws evenly for a deviation above 100


def check_policy(policy: str) -> None:
    """Raise UserError for a string that timm would refuse, or would silently read as something else."""
    name, *parts = policy.split("-")
    wrong = [name] if name != "rand" else [part for part in parts if not _PART.fullmatch(part)]
    if wrong:
        raise UserError(f"data.rand_augment={policy}: '{wrong[0]}' is not understood; write for example "
                        f"rand-m9-mstd0.5-inc1 (also n2, p0.5, mmax10)")
    for part in parts:
        name = part.rstrip("0123456789.")
        if name in _MOST and not float(part[len(name):]) <= _MOST[name]:
            raise UserError(f"data.rand_augment={policy}: {part} is too large: {name} is at most {_MOST[name]}")


def rand_augment(policy: str, image_size: int, mean: Sequence[float]) -> Callable[[Image.Image], Image.Image]:
    """The policy as a function of PIL RGB images, which draws from the global generators of random and numpy.

    Args:
        policy: what `check_policy` passes.
        image_size: pixels; at most 45 % of them are what a translation shifts by.
        mean: of each channel as fractions of full brightness: the colour of what a rotation uncovers.
    """
    colour = tuple(round(255 * channel) for channel in mean)
    made = rand_augment_transform(policy, {"translate_const": int(0.45 * image_size), "img_mean": colour})
    for operation in made.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterize
    return made


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest `bits` of each channel: at least one, where timm's strongest magnitude asks for none.

    Pillow 13 refuses to keep none; older ones return a black image.
    """
    return image if bits >= 8 else ImageOps.posterize(image, max(bits, 1))
