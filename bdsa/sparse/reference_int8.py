"""What the kernels of int8 compute, in PyTorch operators: to test against.

Bytes and sums are whole numbers, held exactly in float64; what is rounded is rounded where the kernels do it.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdsa.sparse.reference import dilated


@dataclass
class _Layer:
    """A matrix [taps, depth, columns] in float64, with bias, scale and what bytes its rows are."""
    weight: Tensor
    bias: Tensor
    scale: Tensor
    inverse: float
    zero: float

    def bytes(self, x: Tensor) -> Tensor:
        return (x.double() * self.inverse + self.zero).round().clamp(0, 255)

    def real(self, sums: Tensor) -> Tensor:
        return (sums * self.scale + self.bias).float()

    def at(self, rows: Tensor) -> Tensor:
        """The product of rows of bytes [n, depth]."""
        return self.real(rows @ self.weight[0])

    def windows(self, x: Tensor, positions: Tensor, stride: int) -> Tensor:
        """A 3x3 convolution of padding 1 of a map of bytes at [n, 3] positions."""
        image, row, column = positions.unbind(1)
        padded = F.pad(x, (0, 0, 1, 1, 1, 1), value=self.zero)
        taps = self.weight.reshape(9, x.shape[3], -1)
        return self.real(sum(padded[image, row * stride + tap // 3, column * stride + tap % 3] @ taps[tap]
                             for tap in range(9)))


def _layers(weights: list[Tensor], biases: list[Tensor], scales: list[Tensor], bytes: list[float], values: list[int]
            ) -> Iterator[_Layer]:
    for weight, bias, scale, inverse, zero, count in zip(weights, biases, scales, bytes[::2], bytes[1::2], values,
                                                         strict=True):
        taps = weight.shape[1]
        plain = weight.permute(1, 2, 4, 0, 3).reshape(taps, weight.shape[2] * 4, -1)
        yield _Layer(plain[:, :count // taps, :len(bias)].double(), bias.double(), scale.double(), inverse, zero)


def residual_int8(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool,
                  weights: list[Tensor], biases: list[Tensor], scales: list[Tensor], bytes: list[float],
                  projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
                  projection_scale: Tensor | None, projection_bytes: list[float], projected_stride: int,
                  everywhere: bool, board: Tensor | None, board_bias: Tensor | None, products: Tensor | None,
                  columns: int) -> None:
    """See `operators.residual_int8`."""
    basic = len(weights) == 2
    depths = [x.shape[3] * (9 if basic else 1), 9 * len(biases[0]), len(biases[1])]
    first, second, *third = _layers(weights, biases, scales, bytes, depths[:len(weights)])
    at_m = mask.nonzero()
    inner = 1 if basic else stride, tuple((mask if basic else x).shape[1:3])
    at_d = at_m if submanifold else dilated(mask, *inner).nonzero()
    opened = first.windows(first.bytes(x), at_d, stride) if basic else first.at(first.bytes(x[at_d.unbind(1)]))
    hidden = x.new_full((*(mask if basic else x).shape[:3], opened.shape[1]), second.zero, dtype=torch.float64)
    hidden[at_d.unbind(1)] = second.bytes(F.relu(opened))
    added = second.windows(hidden, at_m, 1 if basic else stride)
    for last in third:
        added = last.at(last.bytes(F.relu(added)))
    identity = out[at_m.unbind(1)].float()
    if projected is not None:
        shortcut, = _layers([projection], [projection_bias], [projection_scale], projection_bytes, [projected.shape[3]])
        source = shortcut.bytes(projected[:, ::projected_stride, ::projected_stride])
        out.copy_(F.relu(shortcut.at(source)))
        identity = shortcut.at(source[at_m.unbind(1)]) - shortcut.bias.float()  # which is in the last layer's
    out[at_m.unbind(1)] = F.relu(identity + added).to(out.dtype)
    _look_again(out, board, board_bias, products)
    rows.copy_(torch.tensor([0 if submanifold else len(at_d), len(at_m)]))


def convnext_int8(x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float,
                  weights: list[Tensor], biases: list[Tensor], scales: list[Tensor], bytes: list[float],
                  board: Tensor | None, board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.convnext_int8`."""
    channels, side = x.shape[3], round(len(taps) ** 0.5)
    first, second = _layers(weights, biases, scales, bytes, [channels, len(biases[0])])
    at_m = mask.nonzero()
    kernel = taps[:, :channels].T.reshape(channels, 1, side, side)
    spatial = F.conv2d(x.float().permute(0, 3, 1, 2), kernel, taps_bias[:channels], 1, side // 2, groups=channels)
    active = F.layer_norm(spatial.permute(0, 2, 3, 1)[at_m.unbind(1)], (channels,), eps=eps)
    hidden = second.bytes(F.gelu(first.at(first.bytes(active))))
    x[at_m.unbind(1)] = (x[at_m.unbind(1)].float() + second.at(hidden)).to(x.dtype)
    _look_again(x, board, board_bias, products)
    rows.copy_(torch.tensor([0, len(at_m)]))


def _look_again(x: Tensor, board: Tensor | None, bias: Tensor | None, products: Tensor | None) -> None:
    """Make the products of the whole map anew, which only the kernels of bfloat16 know how to."""
    if board is not None:
        torch.ops.bdsa.products.default(products, x, board, bias)
