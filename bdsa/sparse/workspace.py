"""Memory for maps, kept from call to call: the pages of fresh memory cost a tenth of a network's time."""
from __future__ import annotations

import threading

import torch
from torch import Tensor


class Workspace(threading.local):
    """Rooms by name, one set a thread. What a room holds is lost when the name is asked for again."""

    def __init__(self) -> None:
        self.rooms: dict[str, Tensor] = {}

    def room(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory of a shape, on the device and of the type of `like`, with anything in it."""
        count = 1
        for size in shape:
            count *= size
        room = self.rooms.get(name)
        if room is None or room.numel() < count or room.device != like.device or room.dtype != like.dtype:
            with torch.inference_mode(False):  # usable in any mode
                room = self.rooms[name] = torch.empty(count, device=like.device, dtype=like.dtype)
        return room[:count].view(shape)
