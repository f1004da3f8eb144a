"""From any mode of Pillow's to 8 bits a channel, in the channels that a network reads."""
from __future__ import annotations

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels of a network -> what its images are read as

_FULL = 65535  # white in 16 bits


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in L, RGB or RGBA.

    Grey values of 16 bits are scaled, so that white stays white and black black. What is transparent is laid over
    white, as a page shows it, unless the opacity is wanted itself (RGBA).

    Raises:
        ValueError: for pixels whose white is not known: floating-point numbers, or integers beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers (mode F), whose white is not known: save it with 8 or "
                         "16 bits a channel")
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert(mode)
    if mode != "RGBA" and image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), seen).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Mode L of a mode whose white is 65535."""
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= _FULL:
        raise ValueError(f"its pixels are integers beyond 16 bits (up to {values.max():,}), whose white is not known: "
                         f"save it with 8 or 16 bits a channel")
    return Image.fromarray(((values * 255 + _FULL // 2) // _FULL).astype(np.uint8))
