"""The image files below a folder: what systems and editors leave there is passed over, and each file counts once.

Links are followed, with these exceptions, all of which would count an image twice: a link to a folder that holds the
link, a link to what is in the listed tree anyway, and a folder that another link led to before.
"""
from __future__ import annotations

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from bdsa.data.reading import not_regular, quoted
from bdsa.errors import UserError

_LEFT_BY_SYSTEMS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
                    "thumbs.db", "desktop.ini", "__pycache__"}


def passed_over(name: str) -> bool:
    """Whether a file or folder of that name belongs to a system or an editor: hidden ones, and some known ones."""
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return name.lower().endswith(IMG_EXTENSIONS)


def subfolders(folder: Path) -> list[str]:
    """Names of a folder's folders, sorted, without those passed over."""
    return sorted(entry.name for entry in _entries(str(folder)) if _is_folder(entry))


class ImageListing:
    """Lists the folders of one tree; remembers where it was, so that no image is counted twice.

    Args:
        root: the tree.
        depth: how deep below the root a folder lies whose images count, at least: 1 for class folders.
    """

    def __init__(self, root: Path, depth: int = 0) -> None:
        self.root, self.depth = Path(os.path.realpath(root)), depth
        self.visited: set[Path] = set()

    def below(self, folder: Path) -> list[tuple[str, int]]:
        """(path, bytes) of the images below a folder of the tree: folder by folder, each sorted by name.

        Raises:
            UserError: for a folder that cannot be listed, or an image's name on what is no regular file.
        """
        if self.depth and folder.is_symlink() and self._leads_back(Path(os.path.realpath(folder)), folder.parent):
            return []
        found: list[tuple[str, list[tuple[str, int]]]] = []
        waiting = [(str(folder), Path(os.path.realpath(folder)))]
        while waiting:
            path, real = waiting.pop()
            if real in self.visited:
                continue
            self.visited.add(real)
            files = []
            for entry in _entries(path):
                target = Path(os.path.realpath(entry.path)) if entry.is_symlink() else None
                if _is_folder(entry):
                    if target is None or not self._leads_back(target, real):
                        waiting.append((entry.path, target or real / entry.name))
                elif is_image_name(entry.name) and not (target and self._counts_itself(target)):
                    files.append((entry.path, _size(entry)))
            found.append((path, sorted(files)))
        return [file for _, files in sorted(found) for file in files]

    def _leads_back(self, target: Path, holder: Path) -> bool:
        """Whether a link to a folder leads into the tree, or to a folder that holds the tree or the link."""
        around = self.root.is_relative_to(target) or Path(os.path.realpath(holder)).is_relative_to(target)
        return around or self._is_listed(target)

    def _counts_itself(self, target: Path) -> bool:
        """Whether what a link to a file leads to is listed under its own name."""
        return is_image_name(target.name) and self._is_listed(target.parent) and not passed_over(target.name)

    def _is_listed(self, folder: Path) -> bool:
        if not folder.is_relative_to(self.root):
            return False
        parts = folder.relative_to(self.root).parts
        return len(parts) >= self.depth and not any(map(passed_over, parts))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not passed_over(entry.name)]
    except OSError as error:
        raise UserError(f"cannot list the folder {quoted(folder)}: {error.strerror or error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        if not entry.is_file() and (kind := not_regular(entry.path)) is not None:
            raise UserError(f"{quoted(entry.path)} is {kind}, no regular file: take it out of the data set")
        return entry.stat().st_size
    except OSError as error:
        what = "is a link to nothing" if entry.is_symlink() else f"cannot be read ({error.strerror or error})"
        raise UserError(f"{quoted(entry.path)} {what}: take it out of the data set") from error
