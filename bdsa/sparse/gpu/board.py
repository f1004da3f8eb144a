"""The products of mask units on a GPU: made in one reading of a map, then only where blocks changed it."""
from __future__ import annotations

import torch
from torch import Tensor

from bdsa.method.masks import MaskUnit
from bdsa.sparse.gpu import operators
from bdsa.sparse.gpu.lists import Lists
from bdsa.sparse.packing import Form
from bdsa.sparse.scores import COLUMNS, Board, Following, Member
from bdsa.sparse.workspace import Workspace

IN_MASK = 1  # the place of m in the counts


class GpuBoard(Board):
    """A board of one panel, whose width is a multiple of 16; on a GPU a unit on its own map has one too.

    Attributes:
        offsets: float32 [units, 1], the units' folded biases, by the unit's place among the columns.
    """

    def __init__(self, units: list[MaskUnit], dtype: torch.dtype) -> None:
        super().__init__(units, Form(-(-len(units) * COLUMNS // 16) * 16))
        self.weight = self.weight.to(dtype)
        offsets = [slot.offset for slot in reversed(self.slots)]
        self.offsets = torch.tensor(offsets, device=self.weight.device, dtype=torch.float32)[:, None]

    def offset(self, column: int) -> Tensor:
        """The bias of the unit whose columns begin there, float32 [1]."""
        return self.offsets[column // COLUMNS]

    def room(self, x: Tensor, workspace: Workspace) -> Tensor:
        """Memory for the products of a map x [B, H, W, C]: float32 [1, B * H * W, width]."""
        return x.new_empty(1, x.shape[0] * x.shape[1] * x.shape[2], self.weight.shape[3], dtype=torch.float32)

    def products(self, x: Tensor, workspace: Workspace) -> Tensor:
        """The products of a map x [B, H, W, C]."""
        out = self.room(x, workspace)
        _product(self, out, x, None, len(self.bias))
        return out


def scorers(units: list[MaskUnit], dtype: torch.dtype) -> list[Member]:
    """How units that look at one map get their logits, in the order in which they decide."""
    board = GpuBoard(units, dtype)
    return [Member(board, slot) for slot in board.slots]


def update(x: Tensor, lists: Lists, everywhere: bool, following: Following | None) -> None:
    """Bring the products up to date where a block changed the map x, at m or `everywhere`."""
    if following is not None:
        _product(following.board, following.products, x, None if everywhere else lists, following.columns)


def _product(board: Board, out: Tensor, x: Tensor, lists: Lists | None, columns: int) -> None:
    at, counts, place = (None, None, -1) if lists is None else (lists.at, lists.counts, IN_MASK)
    operators.product_at(out, x, at, counts, place, board.weight[0], board.bias, columns, 1, 1, "listed", 1, True,
                         False, "none", None, None, 1)
