"""The lists of a block's positions, and how they come about."""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bdsa.sparse.gpu import operators
from bdsa.sparse.gpu.operators import BLOCK

ONE_PROGRAM = 8192  # positions of a map up to which one program decides about an image and lists


@dataclass(frozen=True)
class Wanted:
    """Which lists a block needs beside that of m.

    Attributes:
        dilated: D(m), the positions that a 3x3 convolution of this stride reads; 0: not needed.
        at_output: whether that is at output resolution.
        outside: the positions that are not in m.
        segments: where each image's positions are in the list of m.
    """
    dilated: int = 0
    at_output: bool = False
    outside: bool = False
    segments: bool = False


@dataclass(frozen=True)
class Lists:
    """A block's lists; how long they are is in `counts`, on the device.

    Attributes:
        counts: int32 [4]: positions of D(m), of m, and outside of m.
        at, outside, dilated: int32, the positions; those that are not wanted are None.
        segments: int32 [B, chunks, 2], where a chunk's part of `at` is, and its length.
        grid: height and width of the mask.
        inner: those of the map of D(m).
    """
    counts: Tensor
    at: Tensor
    outside: Tensor | None
    dilated: Tensor | None
    segments: Tensor | None
    grid: tuple[int, int]
    inner: tuple[int, int]

    @classmethod
    def room(cls, wanted: Wanted, counts: Tensor, images: int, grid: tuple[int, int], size: tuple[int, int]) -> Lists:
        """Memory for the lists of masks [images, *grid] of a block whose input is [images, *size]."""
        inner = grid if wanted.at_output else size
        positions, within = (images * height * width for height, width in (grid, inner))
        chunks = -(-grid[0] * grid[1] // BLOCK)

        def memory(wanted: object, *shape: int) -> Tensor | None:
            return counts.new_empty(shape) if wanted else None

        return cls(counts, counts.new_empty(positions), memory(wanted.outside, positions),
                   memory(wanted.dilated, within), memory(wanted.segments, images, chunks, 2), grid, inner)

    def decide(self, wanted: Wanted, logits: Tensor, mask: Tensor, products: Tensor, offset: Tensor, column: int,
               size: tuple[int, int], stride: int) -> None:
        """Logits and mask [B, h, w] of a unit, and the lists. See `operators.decide_positions`."""
        largest = max(size[0] * size[1], self.inner[0] * self.inner[1])
        if largest > ONE_PROGRAM:
            operators.decide_positions(logits, mask, products, offset, column, *size, stride)
            self.of(wanted, mask)
            return
        operators.decide_and_list(logits, mask, products, offset, column, *size, stride, self.counts, self.at,
                                  self.outside, self.dilated, self.segments, *self.inner, wanted.dilated)

    def of(self, wanted: Wanted, mask: Tensor) -> None:
        """The lists of a mask bool [B, h, w]."""
        operators.list_positions(mask, self.counts, self.at, self.outside, self.dilated, self.segments, *self.inner,
                                 wanted.dilated)
