"""Weights and rows in int8: how matrices are packed for the kernels, and blocks whose products are of bytes.

Maps between blocks stay bfloat16, and so do mask units, stem, depthwise layers, norms and head. A layer's weights have
a scale a column; its rows a step and a zero for all of them (`bdsa.sparse.ranges`). Sums are whole numbers of 32 bits.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdsa.method.norms import Blend
from bdsa.models.blocks import AdaptiveBlock
from bdsa.sparse import operators
from bdsa.sparse.packing import NARROW, Form, Packed, budget_norm, folded, rows_first, taps_first
from bdsa.sparse.pages import placed
from bdsa.sparse.planning import plan_block, why_masked
from bdsa.sparse.plans import (
    KINDS,
    BottleneckPlan,
    ConvNeXtPlan,
    Plan,
    Shortcut,
    board_of,
    check_projected,
)
from bdsa.sparse.scores import Following

STEP = 64     # of the depth that the kernels of int8 multiply at once
MOST = 255    # of a row's bytes, which begin at 0
WEIGHTS = 127  # of a weight, up or down
LEAST = 1e-12  # of a scale: a column of zeros has any


@dataclass(frozen=True)
class Bytes:
    """What the bytes of a layer's rows are: round(x * inverse) + zero, within 0 and 255."""
    inverse: float
    zero: float

    @classmethod
    def of(cls, low: float, high: float) -> Bytes:
        """For values from low to high; 0 is among the bytes' values."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / MOST, LEAST)
        return cls(1 / step, float(round(-low / step)))


@dataclass(frozen=True)
class Quantised(Packed):
    """A matrix for products of bytes.

    Attributes:
        weight: int8 in fours of rows, [panels, taps, depth / 4, width, 4]; depth and columns are padded with zeros.
        bias: float32 [columns], less what the rows' zero adds to a sum.
        scale: float32 [columns], what one of a sum is worth.
        rows: of the layer.
    """
    scale: Tensor
    rows: Bytes


def worth(weight: Tensor, rows: Bytes) -> Tensor:
    """What one of a sum is worth, float64 [columns], where the largest weight of each column becomes 127."""
    return (weight.abs().amax(dim=(0, 1)) / (WEIGHTS * rows.inverse)).clamp_min(LEAST)


def quantised(weight: Tensor, bias: Tensor, rows: Bytes, form: Form, scale: Tensor | None = None) -> Quantised:
    """Pack a matrix [taps, depth, columns] in float64 with its bias [columns] and, if it is shared, `worth`."""
    scale = worth(weight, rows) if scale is None else scale
    whole = (weight / (rows.inverse * scale)).round().clamp(-WEIGHTS, WEIGHTS)
    bias = bias - scale * rows.zero * whole.sum(dim=(0, 1))
    taps, depth, columns = whole.shape
    padded = F.pad(whole, (0, -columns % form.width, 0, -depth % STEP)).to(torch.int8)
    packed = padded.view(taps, -1, 4, padded.shape[2] // form.width, form.width).permute(3, 0, 1, 4, 2)
    return Quantised(placed(packed.contiguous()), bias.float().contiguous(), scale.float().contiguous(), rows)


def quantised_layer(layer: nn.Conv2d, norm: object, form: Form, others: Sequence[tuple[Tensor, Tensor, Bytes]] = ()
                    ) -> list[Quantised]:
    """A convolution and its batch norm, and matrices whose products join its own: all with one scale a column.

    Args:
        others: weight [taps, depth, columns], bias and rows of each.
    """
    weight, bias = folded(layer, norm)
    weight = rows_first(weight) if layer.in_channels <= NARROW else taps_first(weight)
    parts = [(weight, bias, Bytes.of(*form.ranges[layer])), *others]
    scale = torch.stack([worth(each, rows) for each, _, rows in parts]).amax(dim=0)
    return [quantised(*part, form, scale) for part in parts]


class Int8Residual:
    """A basic block or a bottleneck (`BasicPlan`, `BottleneckPlan`), with its projection."""

    def __init__(self, block: AdaptiveBlock, budget: str | Blend, form: Form) -> None:
        layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if KINDS[type(block)] is BottleneckPlan:
            layers.append((block.conv3, block.bn3))
        self.stride, self.submanifold = layers[len(layers) - 2][0].stride[0], block.submanifold
        self.shortcut = None if block.downsample is None else Shortcut(block, budget, form)
        self.columns = layers[-1][0].out_channels
        layers = [(layer, budget_norm(norm, budget)) for layer, norm in layers]
        self.matrices = [quantised_layer(*each, form)[0] for each in layers[:-1]]
        self.projection: Quantised | None = None
        if self.shortcut is None or self.shortcut.projection is None:
            self.matrices += quantised_layer(*layers[-1], form)
            return
        convolution, norm = self.shortcut.projection
        weight, bias = folded(convolution, norm)
        joined = taps_first(weight), bias, Bytes.of(*form.ranges[convolution])
        last, self.projection = quantised_layer(*layers[-1], form, [joined])
        self.matrices.append(Quantised(last.weight, last.bias + self.projection.bias, last.scale, last.rows))

    def __call__(self, x: Tensor, mask: Tensor, identity: Tensor, rows: Tensor, following: Following | None) -> None:
        """See `BasicPlan`; maps are bfloat16."""
        p, shortcut = self.projection, self.shortcut
        projected = (None, None, None, None, [], 1) if p is None else (
            check_projected(shortcut, x, mask.shape[1:]), p.weight, p.bias, p.scale, [p.rows.inverse, p.rows.zero],
            shortcut.stride)
        operators.residual_int8(identity, x, mask, rows, self.stride, self.submanifold, *_listed(self.matrices),
                                *projected, shortcut is not None, *board_of(following))


class Int8ConvNeXt(ConvNeXtPlan):
    """`ConvNeXtPlan` without a response norm."""

    def __init__(self, block: AdaptiveBlock, budget: str | Blend, form: Form) -> None:
        self.rows = [Bytes.of(*form.ranges[layer]) for layer in (block.mlp.fc1, block.mlp.fc2)]
        super().__init__(block, budget, form)

    def packed(self, layers: list[tuple[Tensor, Tensor]], form: Form) -> list[Quantised]:
        return [quantised(taps_first(w), b, rows, form) for (w, b), rows in zip(layers, self.rows)]

    def __call__(self, x: Tensor, mask: Tensor, identity: Tensor, rows: Tensor, following: Following | None) -> None:
        """See `BasicPlan`; `identity` is x, which is bfloat16."""
        operators.convnext_int8(x, mask, rows, self.taps, self.taps_bias, self.eps,
                                *_listed([self.first, self.second]), *board_of(following))


def _listed(matrices: Sequence[Quantised]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[float]]:
    """As the operators take them: weights, biases, scales, and inverse and zero of each one's rows."""
    return ([m.weight for m in matrices], [m.bias for m in matrices], [m.scale for m in matrices],
            [value for m in matrices for value in (m.rows.inverse, m.rows.zero)])


def layers_of(block: AdaptiveBlock) -> list[nn.Module] | None:
    """The layers of a block that have an int8 form, a projection too; None where the block has none."""
    if why_masked(block):
        return None
    if KINDS[type(block)] is ConvNeXtPlan:
        return None if hasattr(block.mlp, "grn") else [block.mlp.fc1, block.mlp.fc2]
    layers = [layer for name in ("conv1", "conv2", "conv3") if (layer := getattr(block, name, None)) is not None]
    if any(layer.groups > 1 for layer in layers):
        return None
    shortcut = None if block.downsample is None else Shortcut.layers(block)[1]
    return layers if shortcut is None else [*layers, shortcut[0]]


def plan_in(block: AdaptiveBlock, budget: str | Blend, form: Form) -> Plan | Int8Residual | Int8ConvNeXt | None:
    """`plan_block` in a form that may have ranges for int8: blocks that it has none for stay in the form's own type."""
    layers = layers_of(block) if form.ranges else None
    if layers is None or not all(layer in form.ranges for layer in layers):
        return plan_block(block, budget, form)
    return (Int8ConvNeXt if KINDS[type(block)] is ConvNeXtPlan else Int8Residual)(block, budget, form)
