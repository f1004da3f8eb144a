"""A digest inside each weights file, so that a flipped bit is noticed when the file is opened.

A file of torch.save is a zip archive, and its digest is the archive's comment, which torch passes over. A safetensors
file has its digest among the metadata; it is taken with zeros in its place. Files without one are opened unchecked.
"""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from bdsa.errors import UserError

MARK = b"bdsa sha256 "
LENGTH = 64                        # hexadecimal digits of a SHA-256
COMMENT = len(MARK) + LENGTH       # bytes of the archive's comment
KEY = "bdsa_sha256"                # of the safetensors metadata
_END, _END_LENGTH = b"PK\x05\x06", 22  # the archive's last record; its last two bytes are the comment's length
_PART = 1 << 20


class Digesting:
    """A file that torch.save writes to; `finish` puts the digest of what was written behind it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.last = file, hashlib.sha256(), b""

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        if len(view) < 2:
            joined = self.last + bytes(view)
            self._put(joined[:-2])
            self.last = joined[-2:]
        else:
            self._put(self.last)
            self._put(view[:-2])
            self.last = bytes(view[-2:])
        return len(view)

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        """Give the archive its comment."""
        assert self.last == b"\0\0", "torch.save writes an archive without a comment"
        self._put(COMMENT.to_bytes(2, "little"))
        self.file.write(MARK + self.digest.hexdigest().encode())

    def _put(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        self.file.write(data)


def state_digest(network: nn.Module) -> str:
    """Of a network's weights and statistics, wherever they are: equal where they are the same to the last bit."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def with_digest(content: bytes) -> bytes:
    """A safetensors file whose metadata have `KEY` with zeros, with its digest in their place."""
    empty = f'"{KEY}":"{"0" * LENGTH}"'.encode()
    return content.replace(empty, f'"{KEY}":"{hashlib.sha256(content).hexdigest()}"'.encode(), 1)


def check_digest(path: Path) -> None:
    """Raise UserError if a file has a digest and its bytes have another."""
    with path.open("rb") as file:
        sound = (_safetensors_is_sound if path.suffix == ".safetensors" else _archive_is_sound)(file)
    if not sound:
        raise UserError(f"weights file {path} is damaged: its bytes do not have the digest that was written with them; "
                        f"{advice(path)}")


def advice(path: Path) -> str:
    """What to do about a damaged file."""
    if path.parent.name == "checkpoints" and path.name == "last.pt":
        return "restore a copy of it, or train anew with trainer.fresh=true"
    return "restore a copy of it, or make it again"


def _archive_is_sound(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_LENGTH - COMMENT))
    tail = file.read()
    end = tail.rfind(_END)
    stated = int.from_bytes(tail[end + _END_LENGTH - 2:end + _END_LENGTH], "little") if end >= 0 else 0
    if not stated and MARK not in tail:
        return True
    file.seek(0)
    digest = hashlib.sha256()
    _take(digest, file, max(0, size - COMMENT))
    return tail[-COMMENT:] == MARK + digest.hexdigest().encode()


def _safetensors_is_sound(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > size - 8:
        return False
    header = file.read(length)
    try:
        metadata = json.loads(header).get("__metadata__") or {}
        stated = metadata.get(KEY)
        if stated is None:
            return KEY not in str(metadata.get("bdsa"))
        entry, empty = f'"{KEY}":"{stated}"'.encode(), f'"{KEY}":"{"0" * LENGTH}"'.encode()
    except (ValueError, AttributeError, RecursionError):
        return False
    digest = hashlib.sha256(start + header.replace(entry, empty, 1))
    _take(digest, file, size)
    return stated == digest.hexdigest()


def _take(digest: hashlib._Hash, file: BinaryIO, count: int) -> None:
    """Add the next `count` bytes of a file, or those that there are."""
    while count > 0 and (part := file.read(min(_PART, count))):
        digest.update(part)
        count -= len(part)
