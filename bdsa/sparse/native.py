"""The native kernels as functions of tensors: pointers and sizes out, the rest is C++."""
from __future__ import annotations

import ctypes
import functools
from ctypes import byref, c_char_p, c_float, c_int, c_int64, c_void_p

import torch
from torch import Tensor

from bdsa.sparse.build import Unavailable, library
from bdsa.sparse.packing import Packed

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}


class _Matrix(ctypes.Structure):
    _fields_ = [("packed", c_void_p), ("bias", c_void_p), ("taps", c_int), ("depth", c_int), ("columns", c_int)]


class _Depthwise(ctypes.Structure):
    _fields_ = [("weights", c_void_p), ("bias", c_void_p), ("kernel", c_int), ("channels", c_int)]


class _Board(ctypes.Structure):
    _fields_ = [("matrix", ctypes.POINTER(_Matrix)), ("products", c_void_p), ("positions", c_int64), ("columns", c_int)]


@functools.cache
def missing() -> str | None:
    """Why there are no native kernels on this machine, in a line; None where there are."""
    try:
        library()
    except Unavailable as reason:
        return str(reason)
    return None


def panel() -> int:
    """Columns of a panel of a packed matrix; 0 where there are no kernels to pack for."""
    return 0 if missing() else library().bdsa_panel()


def description() -> str:
    """Which instructions the kernels use."""
    kernels = library()
    kernels.bdsa_instructions.restype = c_char_p
    threads = "" if kernels.bdsa_parallel() else ", one thread (the compiler lacks OpenMP)"
    return kernels.bdsa_instructions().decode() + threads


def convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str,
                raw: Tensor | None) -> None:
    """See `operators.convolution`."""
    images, height, width, channels = x.shape
    library().bdsa_convolution(_pointer(x), images, height, width, channels, stride, _matrix(weight, bias),
                               out.shape[1], out.shape[2], _pointer(out), ACTIVATIONS[activation],
                               None if raw is None else _pointer(raw), torch.get_num_threads())


def convolution_pool(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution_pool`."""
    images, height, width, channels = x.shape
    library().bdsa_convolution_pool(_pointer(x), images, height, width, channels, stride, _matrix(weight, bias),
                                    *Packed(weight, bias).output_size(x, stride), _pointer(out),
                                    ACTIVATIONS[activation], torch.get_num_threads())


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """See `operators.layer_norm`."""
    affine = [None if t is None else _pointer(t) for t in (weight, bias)]
    library().bdsa_layer_norm(_pointer(x), c_int64(x.numel() // x.shape[-1]), x.shape[-1], c_float(eps), *affine,
                              torch.get_num_threads())


def products(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """See `operators.products`."""
    images, height, width, _ = x.shape
    library().bdsa_products(_pointer(x), images, height, width, _board(weight, bias, out, len(bias)),
                            torch.get_num_threads())


def logits(products: Tensor, images: int, height: int, width: int, panel: int, column: int, offset: float,
           stride: int) -> Tensor:
    """See `operators.logits`."""
    out = products.new_empty(images, (height - 1) // stride + 1, (width - 1) // stride + 1)
    board = byref(_Board(None, products.data_ptr(), products.shape[1], 0))
    library().bdsa_logits(board, images, height, width, panel, column, c_float(offset), stride, out.shape[1],
                          out.shape[2], _pointer(out), torch.get_num_threads())
    return out


def basic(out: Tensor, x: Tensor, mask: Tensor, stride: int, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
          everywhere: bool, board: Tensor | None, board_bias: Tensor | None, products: Tensor | None,
          columns: int) -> Tensor:
    """See `operators.basic`."""
    rows = torch.zeros(2, dtype=torch.int64)
    images, height, width, _ = x.shape
    library().bdsa_basic(_pointer(out), _pointer(x), _pointer(mask), images, height, width, out.shape[1], out.shape[2],
                         stride, _matrix(w1, b1), _matrix(w2, b2), int(everywhere),
                         _board(board, board_bias, products, columns), _pointer(rows), torch.get_num_threads())
    return rows


def bottleneck(out: Tensor, x: Tensor, mask: Tensor, stride: int, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
               w3: Tensor, b3: Tensor, everywhere: bool, board: Tensor | None, board_bias: Tensor | None,
               products: Tensor | None, columns: int) -> Tensor:
    """See `operators.bottleneck`."""
    rows = torch.zeros(2, dtype=torch.int64)
    images, height, width, _ = x.shape
    library().bdsa_bottleneck(_pointer(out), _pointer(x), _pointer(mask), images, height, width, out.shape[1],
                              out.shape[2], stride, _matrix(w1, b1), _matrix(w2, b2), _matrix(w3, b3), int(everywhere),
                              _board(board, board_bias, products, columns), _pointer(rows), torch.get_num_threads())
    return rows


def convnext(x: Tensor, mask: Tensor, taps: Tensor, taps_bias: Tensor, eps: float, w1: Tensor, b1: Tensor, w2: Tensor,
             b2: Tensor, board: Tensor | None, board_bias: Tensor | None, products: Tensor | None,
             columns: int) -> Tensor:
    """See `operators.convnext`."""
    rows = torch.zeros(2, dtype=torch.int64)
    images, height, width, channels = x.shape
    depthwise = _Depthwise(_pointer(taps), _pointer(taps_bias), round(len(taps) ** 0.5), channels)
    library().bdsa_convnext(_pointer(x), _pointer(mask), images, height, width, byref(depthwise), c_float(eps),
                            _matrix(w1, b1), _matrix(w2, b2), _board(board, board_bias, products, columns),
                            _pointer(rows), torch.get_num_threads())
    return rows


def _pointer(x: Tensor) -> c_void_p:
    return c_void_p(x.data_ptr())


def _board(weight: Tensor | None, bias: Tensor | None, products: Tensor | None, columns: int) -> object:
    if weight is None:
        return None
    matrix = _Matrix(weight.data_ptr(), bias.data_ptr(), weight.shape[1], weight.shape[2], len(bias))
    return byref(_Board(ctypes.pointer(matrix), products.data_ptr(), products.shape[1], columns))


def _matrix(weight: Tensor, bias: Tensor) -> ctypes.Structure:
    return byref(_Matrix(weight.data_ptr(), bias.data_ptr(), weight.shape[1], weight.shape[2], len(bias)))
