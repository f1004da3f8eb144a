"""The native kernels whose products are of int8, as functions of tensors."""
from __future__ import annotations

from ctypes import pointer

from torch import Tensor

from bdsa.sparse import structures
from bdsa.sparse.native import _at, _board, _call, _matrix


def residual_int8(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool,
                  weights: list[Tensor], biases: list[Tensor], scales: list[Tensor], bytes: list[float],
                  projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
                  projection_scale: Tensor | None, projection_bytes: list[float], projected_stride: int,
                  everywhere: bool, board: Tensor | None, board_bias: Tensor | None, products: Tensor | None,
                  columns: int) -> None:
    """See `operators.residual_int8`."""
    depths = [x.shape[3] * (9 if len(weights) == 2 else 1), 9 * len(biases[0]), len(biases[1])]
    matrices = [pointer(m) for m in _int8_matrices(weights, biases, scales, bytes, depths)]
    shortcut = (0, 0, 0, 0, None) if projected is None else (
        _at(projected), *projected.shape[1:3], projected_stride,
        pointer(*_int8_matrices([projection], [projection_bias], [projection_scale], projection_bytes,
                                [projected.shape[3]])))
    block = structures.Residual(
        _at(out), _at(x), _at(mask), *x.shape[:3], *out.shape[1:3], stride, *matrices, *[None] * (3 - len(matrices)),
        *shortcut, everywhere, submanifold, _board(board, board_bias, products, columns, out.shape[3]), _at(rows))
    _call("residual_int8", block, out, x, mask, rows, *weights, *biases, *scales, projected, projection,
          projection_bias, projection_scale, board, board_bias, products)


def convnext_int8(x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float,
                  weights: list[Tensor], biases: list[Tensor], scales: list[Tensor], bytes: list[float],
                  board: Tensor | None, board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.convnext_int8`."""
    depthwise = structures.Depthwise(_at(taps), _at(taps_bias), x.shape[3])
    matrices = map(pointer, _int8_matrices(weights, biases, scales, bytes, [x.shape[3], len(biases[0])]))
    block = structures.ConvNext(_at(x), _at(mask), *x.shape[:3], pointer(depthwise), eps, *matrices, None, 0.0,
                                _board(board, board_bias, products, columns, x.shape[3]), _at(rows))
    _call("convnext_int8", block, x, mask, rows, taps, taps_bias, *weights, *biases, *scales, board, board_bias,
          products)


def _int8_matrices(weights: list[Tensor], biases: list[Tensor], scales: list[Tensor], bytes: list[float],
                   values: list[int]) -> list[structures.Matrix]:
    """Matrices of int8; values: how many a column of each multiplies, over all taps."""
    found = [_matrix(*each) for each in zip(weights, biases, values)]
    for matrix, scale, inverse, zero in zip(found, scales, bytes[::2], bytes[1::2], strict=True):
        matrix.scale, matrix.inverse, matrix.zero = _at(scale), inverse, zero
    return found
