"""Image files that a user names: a file, several, a pattern or a folder; found before anything slow starts."""
from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from bdsa.data.image_listing import ImageListing
from bdsa.data.reading import not_regular
from bdsa.errors import UserError, nearest


def find_image_files(asked: Iterable[str]) -> list[Path]:
    """The files behind paths, patterns (`photos/*.jpg`) and folders (everything below them), each once.

    A file is taken whatever its name ends with; from a folder those with the ending of an image.
    What `bdsa.data.image_listing` passes over in a folder is left out.

    Raises:
        UserError: for a path that is not there (the nearest name beside it is offered) or no regular file,
            a pattern that fits nothing, or a folder without images.
    """
    found: list[Path] = []
    for text in asked:
        path = Path(text).expanduser()
        if path.is_dir():
            found += _in_folder(path)
        elif path.exists():
            if (kind := not_regular(path)) is not None:
                raise UserError(f"images={text} is {kind}, no regular file")
            found.append(path)
        elif glob.has_magic(text):
            fitting = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
            if not fitting:
                raise UserError(f"images={text}: no file fits this pattern")
            found += fitting
        else:
            raise UserError(f"images={text} does not exist{_beside(path)}")
    return list(dict.fromkeys(found))


def folder_names(paths: Iterable[Path]) -> list[str]:
    """A name for each file that can name a folder: what its path adds to the paths' common folder.

    photos/cat/1.png and photos/dog/1.png become cat-1 and dog-1; names that would still be the same,
    also where capitals do not count, get a number.
    """
    paths = [Path(os.path.abspath(p)) for p in paths]  # a symbolic link keeps its own name
    common = Path(os.path.commonpath([p.parent for p in paths]))
    names: list[str] = []
    for path in paths:
        base = name = "-".join(path.relative_to(common).with_suffix("").parts)
        number = 2
        while name.casefold() in map(str.casefold, names):
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def _in_folder(folder: Path) -> list[Path]:
    files = sorted(Path(path) for path, _ in ImageListing(folder).below(folder))
    if not files:
        raise UserError(f"images={folder}: this folder holds no images ({', '.join(IMG_EXTENSIONS)})")
    return files


def _beside(path: Path) -> str:
    """The nearest name to the first part of a path that is missing, or an empty string."""
    while not path.parent.exists():
        path = path.parent
    hint = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
    return hint or f": there is no '{path.name}' in '{path.parent}'"
