"""Images on disk: root/train/<class>/<image> and root/val or root/test with the same classes."""
from __future__ import annotations

from pathlib import Path

from PIL import Image
from torchvision.datasets import ImageFolder

from bdsa.data.registry import DataSpec, Sources, register_dataset
from bdsa.errors import UserError, nearest


def check_root(spec: DataSpec, may_be_made: bool = False) -> Path:
    """Return the data set's root as a Path; UserError if it is not given, missing or not a folder.

    Args:
        may_be_made: accept a folder that does not exist yet, because a download will make it.
    """
    if not spec.root:
        raise UserError(f"data set '{spec.name}' needs its folder: set data.root")
    root = Path(spec.root).expanduser()
    if root.exists() and not root.is_dir():
        raise UserError(f"data.root '{spec.root}' is a file: give the folder of data set '{spec.name}'")
    if not root.exists() and not may_be_made:
        siblings = _folders(root.parent) if root.parent.is_dir() else []
        raise UserError(f"data.root '{spec.root}' does not exist{nearest(root.name, siblings)}")
    return root


@register_dataset("folder", image_size=224, reads=("root",))
def build_folder(spec: DataSpec) -> Sources:
    """Read root/train and root/val or root/test; with test alone, val is the test split."""
    root = check_root(spec)
    present = _folders(root)
    others = [name for name in ("val", "test") if name in present]
    listing = ", ".join(present) or "no folders"
    if "train" not in present:
        raise UserError(f"'{root}' has no folder train{nearest('train', present)}; there: {listing}")
    if not others:
        raise UserError(f"'{root}' has neither val nor test{nearest('val', present)}; there: {listing}")

    classes = _folders(root / "train")
    for split in ("train", *others):
        _check_classes(root / split, classes)
    read = {split: RgbFolder(root / split) for split in ("train", *others)}
    notes = []
    if others == ["test"]:
        notes.append(f"val is the test split: '{root}' has no folder val")
    return Sources(read["train"], read.get("val", read.get("test")), read.get("test"), classes,
                   natural_size=_common_side(read["train"].samples), notes=notes)


class RgbFolder(ImageFolder):
    """torchvision's ImageFolder without hidden folders, with errors that name the file.

    Raises:
        UserError: when constructed, if a class folder holds no image; when read, for a file that is
            not an image or is cut short.
    """

    def __init__(self, root: Path) -> None:
        try:
            super().__init__(str(root), loader=read_rgb)
        except FileNotFoundError as error:
            empty = [c for c in _folders(root) if not any(p.is_file() for p in (root / c).rglob("*"))]
            where = f"class folder {', '.join(empty[:5])} is empty" if empty else str(error).splitlines()[0]
            raise UserError(f"'{root}' lacks images: {where}") from error

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = _folders(Path(directory))
        return classes, {name: label for label, name in enumerate(classes)}


def read_rgb(path: str) -> Image.Image:
    """Read a file in RGB; UserError that names it, if it is not an image or cut short."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:     # Pillow's formats raise OSError, SyntaxError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is not an image"
        raise UserError(f"cannot read the image '{path}': {reason}") from error


def _common_side(samples: list[tuple[str, int]], looked_at: int = 32) -> int | None:
    """Side of the images if a few, spread over all, are square and alike; only their headers are read."""
    sizes = set()
    for path, _ in samples[::max(1, len(samples) // looked_at)]:
        try:
            with Image.open(path) as image:
                sizes.add(image.size)
        except OSError:  # a broken image is reported when it is read
            continue
    sides = {side for size in sizes for side in size}
    return sides.pop() if len(sides) == 1 else None


def _folders(directory: Path) -> list[str]:
    """Names of the folders that are not hidden, sorted: hidden ones belong to editors and systems."""
    return sorted(p.name for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))


def _check_classes(directory: Path, expected: list[str]) -> None:
    found = _folders(directory)
    if not found:
        raise UserError(f"'{directory}' has no class folders: put images in {directory.name}/<class>/<image>")
    if len(found) == 1:
        raise UserError(f"'{directory}' has only one class, {found[0]}: give at least two to tell apart")
    missing, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if missing or extra:
        parts = [f"{word} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
                 for word, names in (("without", missing), ("with", extra)) if names]
        raise UserError(f"'{directory}' differs in its classes from train: {' and '.join(parts)}")
