"""Files written whole or not at all: a crash or a full disk leaves the old file, or none."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bdsa.errors import UserError
from bdsa.ranks import is_main

PROBE = ".bdsa"  # a file that is made and removed, to see whether one can be


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block is left, once it is on the disk; its folder is made.

    Where the block raises, nothing is left behind and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the file system the file's name, which it lacks where writing failed: a full disk, a quota."""
    try:
        yield
    except Exception as error:
        refused: BaseException | None = error
        while refused is not None and not isinstance(refused, OSError):  # torch.save raises its own in place of it
            refused = refused.__cause__ or refused.__context__
        if refused is None:
            raise
        if refused.filename is None:
            refused.filename = str(path)
        raise refused from None


def check_writable(folder: Path) -> None:
    """See that results can go to a folder before any of them is worked out; nothing is left behind. Rank 0 alone does.

    Raises:
        UserError: if nothing can be written there.
    """
    if not is_main():
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with replacing(folder / PROBE):
            pass
        (folder / PROBE).unlink()
        for made in missing:
            made.rmdir()
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): choose another out=...") from error


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text file whole or not at all.

    Args:
        errors: what becomes of the names of files that are no UTF-8; see str.encode.
    """
    with replacing(path) as file:
        file.write(text.encode(errors=errors))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, readable, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def spreadsheet_text(value: Any) -> Any:
    """A cell of a CSV file; a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
