"""The native kernels as functions of tensors: pointers and sizes out, the rest is C++."""
from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_void_p, pointer

import torch
from torch import Tensor

from bdsa.sparse.build import Unavailable, library
from bdsa.sparse.packing import Packed
from bdsa.sparse.recording import call

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}


class _Matrix(ctypes.Structure):
    _fields_ = [("packed", c_void_p), ("bias", c_void_p), ("taps", c_int), ("depth", c_int), ("columns", c_int),
                ("group", c_int), ("channels", c_int)]


class _Depthwise(ctypes.Structure):
    _fields_ = [("weights", c_void_p), ("bias", c_void_p), ("kernel", c_int), ("channels", c_int)]


class _Board(ctypes.Structure):
    _fields_ = [("matrix", POINTER(_Matrix)), ("products", c_void_p), ("positions", c_int64), ("columns", c_int)]


class _Unit(ctypes.Structure):
    _fields_ = [("taps", c_void_p), ("context", c_void_p), ("channels", c_int), ("stride", c_int), ("offset", c_float)]


class _Residual(ctypes.Structure):
    _fields_ = [("out", c_void_p), ("x", c_void_p), ("mask", c_void_p),
                *((name, c_int) for name in ("images", "height", "width", "out_height", "out_width", "stride")),
                *((name, POINTER(_Matrix)) for name in ("first", "second", "third")),
                ("projected", c_void_p), ("projected_height", c_int), ("projected_width", c_int),
                ("projected_stride", c_int), ("projection", POINTER(_Matrix)), ("everywhere", c_int),
                ("board", POINTER(_Board)), ("rows", c_void_p)]


class _ConvNext(ctypes.Structure):
    _fields_ = [("x", c_void_p), ("mask", c_void_p), ("images", c_int), ("height", c_int), ("width", c_int),
                ("depthwise", POINTER(_Depthwise)), ("eps", c_float), ("first", POINTER(_Matrix)),
                ("second", POINTER(_Matrix)), ("response", c_void_p), ("response_eps", c_float),
                ("board", POINTER(_Board)), ("rows", c_void_p)]


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


def pad(out: Tensor, x: Tensor, padding: int) -> None:
    """See `operators.pad`."""
    call(library().bdsa_pad, _pointer(out), _pointer(x), (c_int64 * 4)(*x.stride()), *x.shape, padding, _threads(),
         on=(out, x))


def convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution`."""
    call(library().bdsa_convolution, _pointer(x), *x.shape, stride, byref(_matrix(weight, bias)), *out.shape[1:3],
         _pointer(out), ACTIVATIONS[activation], _threads(), on=(out, x, weight, bias))


def convolution_pool(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution_pool`."""
    call(library().bdsa_convolution_pool, _pointer(x), *x.shape, stride, byref(_matrix(weight, bias)),
         *Packed(weight, bias).output_size(x, stride), _pointer(out), ACTIVATIONS[activation], _threads(),
         on=(out, x, weight, bias))


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """See `operators.layer_norm`."""
    affine = [None if t is None else _pointer(t) for t in (weight, bias)]
    call(library().bdsa_layer_norm, _pointer(x), c_int64(x.numel() // x.shape[-1]), x.shape[-1], c_float(eps), *affine,
         _threads(), on=(x, weight, bias))


def mean(out: Tensor, x: Tensor) -> None:
    """See `operators.mean`."""
    call(library().bdsa_mean, _pointer(x), len(x), x.shape[1] * x.shape[2], x.shape[3], _pointer(out), _threads(),
         on=(out, x))


def subsample(out: Tensor, x: Tensor, mask: Tensor, stride: int, before: int) -> None:
    """See `operators.subsample`."""
    call(library().bdsa_subsample, _pointer(out), _pointer(x), _pointer(mask), *x.shape, stride, before, *out.shape[1:],
         _threads(), on=(out, x, mask))


def average_pool(out: Tensor, x: Tensor, kernel: int, stride: int) -> None:
    """See `operators.average_pool`."""
    call(library().bdsa_average_pool, _pointer(out), _pointer(x), *x.shape, kernel, stride, *out.shape[1:3], _threads(),
         on=(out, x))


def products(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """See `operators.products`."""
    call(library().bdsa_products, _pointer(x), *x.shape[:3], _board(weight, bias, out, len(bias)), _threads(),
         on=(out, x, weight, bias))


def decide(logits: Tensor, mask: Tensor, products: Tensor, height: int, width: int, panel: int, column: int,
           offset: float, stride: int) -> None:
    """See `operators.decide`."""
    board = byref(_Board(None, products.data_ptr(), products.shape[1], 0))
    call(library().bdsa_decide, board, len(logits), height, width, panel, column, c_float(offset), stride,
         *logits.shape[1:], _pointer(logits), _pointer(mask), _threads(), on=(logits, mask, products))


def unit(logits: Tensor, mask: Tensor, x: Tensor, taps: Tensor, context: Tensor, offset: float, stride: int) -> None:
    """See `operators.unit`."""
    weights = _Unit(taps.data_ptr(), context.data_ptr(), x.shape[3], stride, offset)
    call(library().bdsa_unit, byref(weights), _pointer(x), *x.shape[:3], *logits.shape[1:], _pointer(logits),
         _pointer(mask), _threads(), on=(logits, mask, x, taps, context))


def basic(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, w1: Tensor, b1: Tensor, w2: Tensor,
          b2: Tensor, projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
          projected_stride: int, everywhere: bool, board: Tensor | None, board_bias: Tensor | None,
          products: Tensor | None, columns: int) -> None:
    """See `operators.basic`."""
    bottleneck(out, x, mask, rows, stride, w1, b1, w2, b2, 0, None, None, projected, projection, projection_bias,
               projected_stride, everywhere, board, board_bias, products, columns)


def bottleneck(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, w1: Tensor, b1: Tensor, w2: Tensor,
               b2: Tensor, group: int, w3: Tensor | None, b3: Tensor | None, projected: Tensor | None,
               projection: Tensor | None, projection_bias: Tensor | None, projected_stride: int, everywhere: bool,
               board: Tensor | None, board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.bottleneck`."""
    shortcut = (0, 0, 0, 0, None) if projected is None else (
        projected.data_ptr(), *projected.shape[1:3], projected_stride, pointer(_matrix(projection, projection_bias)))
    block = _Residual(out.data_ptr(), x.data_ptr(), mask.data_ptr(), *x.shape[:3], *out.shape[1:3], stride,
                      pointer(_matrix(w1, b1)), pointer(_matrix(w2, b2, group)),
                      None if w3 is None else pointer(_matrix(w3, b3)), *shortcut, everywhere,
                      _board(board, board_bias, products, columns), rows.data_ptr())
    call(library().bdsa_residual, byref(block), _threads(),
         on=(out, x, mask, rows, w1, b1, w2, b2, w3, b3, projected, projection, projection_bias, board, board_bias,
             products))


def convnext(x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float, w1: Tensor, b1: Tensor,
             w2: Tensor, b2: Tensor, response: Tensor | None, response_eps: float, board: Tensor | None,
             board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.convnext`."""
    depthwise = _Depthwise(taps.data_ptr(), taps_bias.data_ptr(), round(len(taps) ** 0.5), x.shape[3])
    block = _ConvNext(x.data_ptr(), mask.data_ptr(), *x.shape[:3], pointer(depthwise), eps, pointer(_matrix(w1, b1)),
                      pointer(_matrix(w2, b2)), None if response is None else response.data_ptr(), response_eps,
                      _board(board, board_bias, products, columns), rows.data_ptr())
    call(library().bdsa_convnext, byref(block), _threads(),
         on=(x, mask, rows, taps, taps_bias, w1, b1, w2, b2, response, board, board_bias, products))


def _threads() -> int:
    return torch.get_num_threads()


def _pointer(x: Tensor) -> c_void_p:
    return c_void_p(x.data_ptr())


def _board(weight: Tensor | None, bias: Tensor | None, products: Tensor | None, columns: int) -> object:
    if weight is None:
        return None
    return pointer(_Board(pointer(_matrix(weight, bias)), products.data_ptr(), products.shape[1], columns))


def _matrix(weight: Tensor, bias: Tensor, group: int = 0) -> _Matrix:
    return _Matrix(weight.data_ptr(), bias.data_ptr(), weight.shape[1], weight.shape[2], len(bias), group, len(bias))
