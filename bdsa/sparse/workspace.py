"""Memory for maps, kept from call to call: the pages of fresh memory cost a tenth of a network's time."""
from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from bdsa.sparse import pages

RECORDINGS = 8  # that are kept: sizes of images and batches that take turns


class Recent(dict[Hashable, Any]):
    """What was used last, by key; of more than `limit` values the one that was not used for longest is forgotten.

    For one thread.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def find(self, key: Hashable) -> Any:
        """The value of a key, which is now the one used last; None where there is none."""
        if key not in self:
            return None
        self[key] = value = self.pop(key)
        return value

    def keep(self, key: Hashable, value: Any) -> None:
        """Add a value, or put it in another's place."""
        self.pop(key, None)
        while len(self) >= self.limit:
            del self[next(iter(self))]
        self[key] = value


class Workspace(threading.local):
    """Rooms by name, one set a thread. What a room holds is lost when the name is asked for again.

    Attributes:
        recordings: inferences that can be played again in these rooms, by what they are of.
    """

    def __init__(self) -> None:
        self.rooms: dict[str, Tensor] = {}
        self.recordings = Recent(RECORDINGS)

    def room(self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Memory of a shape, on the device and of the type of `like` unless another is given, with anything in it."""
        dtype = dtype or like.dtype
        count = 1
        for size in shape:
            count *= size
        room = self.rooms.get(name)
        if room is None or room.numel() < count or room.device != like.device or room.dtype != dtype:
            if room is not None:
                self.recordings.clear()  # they would keep what is replaced
            if like.device.type == "cpu":
                room = self.rooms[name] = pages.empty((count,), dtype)
            else:
                with torch.inference_mode(False):  # usable in any mode
                    room = self.rooms[name] = torch.empty(count, device=like.device, dtype=dtype)
        return room[:count].view(shape)
