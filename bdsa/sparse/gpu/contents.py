"""Whether tensors on a GPU still hold what they held: compared with copies by two kernels and one wait."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from bdsa.sparse.gpu.device import current
from bdsa.sparse.gpu.launch import kernel, launch

WORDS = 4096  # that a program compares at a time
TYPES = {4: torch.int32, 1: torch.uint8}  # of what is compared, by its bytes


@kernel
def compare(addresses, changed, BYTES: tl.constexpr, WORDS: tl.constexpr):
    """Set `changed`, int32 [1], where the memory at two addresses differs: addresses int64 [n, 3], are a, b, words."""
    piece = addresses + tl.program_id(0) * 3
    number = tl.load(piece + 2).to(tl.int32)
    word = tl.int32 if BYTES == 4 else tl.uint8
    first = tl.load(piece).to(tl.pointer_type(word))
    second = tl.load(piece + 1).to(tl.pointer_type(word))
    i = tl.arange(0, WORDS)
    different = tl.load(first + i, mask=i < number, other=0) != tl.load(second + i, mask=i < number, other=0)
    tl.atomic_max(changed, tl.max(different.to(tl.int32), 0))


class GpuContents:
    """What tensors of one GPU held, as copies."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [_memory(t) for t in tensors if t.numel()]
        self.copies = [t.clone() for t in self.tensors]
        device = self.tensors[0].device
        self.device = device
        pieces: dict[int, list[tuple[int, int, int]]] = {size: [] for size in TYPES}
        for t, copy in zip(self.tensors, self.copies):
            whole = len(t) // 4 * 4 if t.data_ptr() % 4 == 0 else 0
            for size, start, end in ((4, 0, whole), (1, whole, len(t))):
                for at in range(start, end, WORDS * size):
                    words = min(WORDS, (end - at) // size)
                    pieces[size].append((t.data_ptr() + at, copy.data_ptr() + at, words))
        self.pieces = {size: torch.tensor(each, dtype=torch.int64, device=device)
                       for size, each in pieces.items() if each}

    def same(self) -> bool:
        """Whether all of them hold it still, bit for bit."""
        with current(self.device):
            changed = torch.zeros(1, dtype=torch.int32, device=self.device)  # of this call: threads may compare too
            for size, addresses in self.pieces.items():
                launch(compare, (len(addresses),), addresses, changed, BYTES=size, WORDS=WORDS)
            return not changed.item()


def _memory(t: Tensor) -> Tensor:
    """The memory that a tensor lies in, uint8 [bytes]."""
    t = t.detach()
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
    return t.as_strided((last + 1,), (1,)).view(torch.uint8)
