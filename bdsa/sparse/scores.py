"""Logits of mask units, sparsely too: what a block did not change needs no second look.

The units of consecutive blocks read the same map but for the positions at which the blocks between them ran. Per
position a unit needs ten products with its weights (nine taps and the linear layer). A board makes them for all
its units in one reading of the map, and the blocks bring up to date what they change. A unit alone on its map, or on
one of few channels, is faster when it reads the map itself.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bdsa.method.masks import MaskUnit
from bdsa.sparse import operators
from bdsa.sparse.packing import Form, pack, taps_first
from bdsa.sparse.workspace import Workspace

COLUMNS = 10       # products a unit
FEW_CHANNELS = 32  # up to which a unit's ten products are no less than the map they are of


@dataclass(frozen=True)
class Slot:
    """A unit's place on a board: its ten columns start at `column` of `panel` and end at `stop` of all columns.

    `offset` is its folded bias.
    """
    panel: int
    column: int
    stop: int
    offset: float
    stride: int


class Board:
    """Packed columns of the units that look at one map, the last to decide first, so that those left are in front.

    Args:
        units: trained mask units of one number of channels, in the order in which they decide.
        form: of the matrix.
    """

    def __init__(self, units: list[MaskUnit], form: Form) -> None:
        a_panel = len(units) if form.width == 0 else max(1, form.width // COLUMNS)
        width = form.width or len(units) * COLUMNS
        matrices, self.slots = [], []
        for i, unit in enumerate(reversed(units)):
            columns, offset = _columns(unit)
            panel, column = i // a_panel, i % a_panel * COLUMNS
            gap = panel * width + column - sum(m.shape[1] for m in matrices)
            matrices += [columns.new_zeros(len(columns), gap), columns]
            self.slots.insert(0, Slot(panel, column, panel * width + column + COLUMNS, offset, unit.conv.stride[0]))
        matrix = torch.cat(matrices, dim=1)
        packed = pack(matrix[None], matrix.new_zeros(matrix.shape[1]), replace(form, width=width))
        self.weight, self.bias, self.width = packed.weight, packed.bias, width

    def room(self, x: Tensor, workspace: Workspace) -> Tensor:
        """Memory for the products of a map x [B, H, W, C]: [panels, B * H * W, width]."""
        shape = (self.weight.shape[0], x.shape[0] * x.shape[1] * x.shape[2], self.width)
        # of its own: where threads take images one by one, one may still use this board when another is at the next
        return workspace.room(f"products {id(self)}", shape, x, torch.float32)

    def products(self, x: Tensor, workspace: Workspace) -> Tensor:
        """The products of a map x [B, H, W, C]."""
        out = self.room(x, workspace)
        operators.products(out, x, self.weight, self.bias)
        return out


@dataclass(frozen=True)
class Following:
    """What a block keeps up to date: a board's products, up to the columns of the next unit."""
    board: Board
    products: Tensor
    columns: int

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """As the block operators take it."""
        return self.board.weight, self.board.bias, self.products, self.columns


NOTHING = (None, None, None, 0)


@dataclass(frozen=True)
class Member:
    """A unit of a board."""
    board: Board
    slot: Slot

    @property
    def offset(self) -> float:
        """The unit's own, to which a budget between those that were trained adds."""
        return self.slot.offset

    def decide(self, x: Tensor, products: Tensor, workspace: Workspace, name: str, offset: float = 0.0
               ) -> tuple[Tensor, Tensor]:
        """The unit's logits, float [B, h, w], and mask, bool [B, h, w], for the map x [B, H, W, C] of the products.

        They are in rooms of that name. `offset` is added to the logits.
        """
        logits, mask = _rooms(x, self.slot.stride, workspace, name)
        operators.decide(logits, mask, products, *x.shape[1:3], self.slot.panel, self.slot.column,
                         self.offset + offset, self.slot.stride)
        return logits, mask


class Alone:
    """A unit on its own."""

    def __init__(self, unit: MaskUnit) -> None:
        columns, self.offset = _columns(unit)
        self.taps, self.context = columns[:, :9].T.float().contiguous(), columns[:, 9].float().contiguous()
        self.stride = unit.conv.stride[0]

    def decide(self, x: Tensor, workspace: Workspace, name: str, offset: float = 0.0) -> tuple[Tensor, Tensor]:
        """See `Member.decide`."""
        logits, mask = _rooms(x, self.stride, workspace, name)
        operators.unit(logits, mask, x, self.taps, self.context, self.offset + offset, self.stride)
        return logits, mask


def scorers(units: list[MaskUnit], form: Form) -> list[Member | Alone]:
    """How units that look at one map, in the order in which they decide, get their logits.

    Args:
        form: of a board's matrix.
    """
    alone = len(units) == 1 and form.dtype == torch.float32  # tiles of bfloat16 make products in no time
    if alone or units[0].conv.in_channels <= FEW_CHANNELS:
        return [Alone(unit) for unit in units]
    board = Board(units, form)
    return [Member(board, slot) for slot in board.slots]


def _rooms(x: Tensor, stride: int, workspace: Workspace, name: str) -> tuple[Tensor, Tensor]:
    shape = (len(x), *((size - 1) // stride + 1 for size in x.shape[1:3]))
    logits = workspace.room(f"{name} logits", shape, x, torch.float32)
    return logits, workspace.room(f"{name} mask", shape, x, torch.bool)


def _columns(unit: MaskUnit) -> tuple[Tensor, float]:
    """A unit's matrix [C, 10], in float64, and its bias, with a norm on the logits folded in."""
    local, context = unit.conv.weight.detach().double(), unit.fc.weight.detach().double()  # [1, C, 3, 3], [1, C]
    scale, shift = local.new_ones(1), local.new_zeros(1)
    if isinstance(unit.norm, nn.BatchNorm2d):
        scale = unit.norm.weight.detach().double() * (unit.norm.running_var.double() + unit.norm.eps).rsqrt()
        shift = unit.norm.bias.detach().double() - unit.norm.running_mean.double() * scale
    offset = (unit.conv.bias.detach().double() + unit.fc.bias.detach().double()) * scale + shift
    return torch.cat([taps_first(local)[:, :, 0].T, context.T], dim=1) * scale, float(offset)
