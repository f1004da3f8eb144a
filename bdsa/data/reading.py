"""Read one image file: turned upright, in the channels asked for, or refused in one line that names it."""
from __future__ import annotations

import contextlib
import os
import stat
import warnings

from PIL import Image, ImageOps

from bdsa.data.image_modes import in_mode
from bdsa.errors import UserError, first_line

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
          (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def read_image(path: str, mode: str = "RGB") -> Image.Image:
    """Read a file in L, RGB or RGBA, turned as its EXIF says.

    Raises:
        UserError: names the file, if it is no regular file, no image, cut short, too large to be true, or has pixels
            that `bdsa.data.image_modes` refuses.
    """
    try:
        if (kind := not_regular(path)) is not None:  # opening a pipe would wait for ever
            raise ValueError(f"it is {kind}, no regular file")
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large photos and damaged EXIF: what matters is an error
            with Image.open(file) as image:
                image.load()
                _turn_upright(image)
                return in_mode(image, mode)
    except Exception as error:     # Pillow's formats raise OSError, SyntaxError, struct.error, ...
        raise UserError(f"cannot read the image {quoted(path)}: {_reason(error)}") from error


def not_regular(path: str | os.PathLike[str]) -> str | None:
    """What a path is if it is no regular file, in words; None if it is one. OSError if nothing is there."""
    mode = os.stat(path).st_mode
    return None if stat.S_ISREG(mode) else next((kind for test, kind in _KINDS if test(mode)), "something else")


def quoted(path: object) -> str:
    """A path in quotes, on one line whatever its name holds."""
    text = str(path)
    return f"'{text}'" if text.isprintable() else repr(text)


def _turn_upright(image: Image.Image) -> None:
    with contextlib.suppress(Exception):  # damaged EXIF says nothing of the orientation
        ImageOps.exif_transpose(image, in_place=True)


def _reason(error: Exception) -> str:
    """What an error says, in one line and without the path."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"it is too large to be true ({str(error).splitlines()[0].split(', ')[0]})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
