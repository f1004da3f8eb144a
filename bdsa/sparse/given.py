"""Masks that a caller gives in place of the units' decisions."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_given(given: Sequence[Tensor], blocks: Sequence[object]) -> None:
    """Raise ValueError for given masks that are not one a block."""
    if len(given) != len(blocks):
        raise ValueError(f"{len(given)} masks for {len(blocks)} adaptive blocks")


def take(mask: Tensor, room: Tensor) -> Tensor:
    """A given mask in its room, both [B, 1, h, w]."""
    if mask.shape != room.shape:
        raise ValueError(f"a given mask is {list(mask.shape)} and the block decides {list(room.shape)}")
    return room.copy_(mask)
