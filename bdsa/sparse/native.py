"""The native kernels as functions of tensors: pointers and sizes out, the rest is C++."""
from __future__ import annotations

import ctypes
import functools
from ctypes import byref, c_char_p, c_uint64, pointer
from typing import Any

import torch
from torch import Tensor

from bdsa.sparse import structures
from bdsa.sparse.build import Unavailable, library
from bdsa.sparse.packing import Form, Packed, group_depth
from bdsa.sparse.recording import call

BFLOAT16_PANEL = 32
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}


@functools.cache
def unavailable() -> str | None:
    """Why there are no native kernels on this machine, in a line; None where there are."""
    try:
        library()
    except Unavailable as reason:
        return str(reason)
    return None


def form(dtype: torch.dtype = torch.float32) -> Form:
    """How matrices of a type are packed for the kernels; in one panel where there are none."""
    if unavailable():
        return Form()
    return Form(library().bdsa_panel()) if dtype == torch.float32 else Form(BFLOAT16_PANEL, dtype)


def bfloat16_instructions() -> str:
    """How products of bfloat16 are made: AMX, AVX512-BF16, or "plain", which gains nothing."""
    kernels = library()
    kernels.bdsa_bfloat16_instructions.restype = c_char_p
    return kernels.bdsa_bfloat16_instructions().decode()


def int8_instructions() -> str:
    """How products of int8 are made: AMX, AVX512-VNNI, or "plain", which gains nothing."""
    kernels = library()
    kernels.bdsa_int8_instructions.restype = c_char_p
    return kernels.bdsa_int8_instructions().decode()


@functools.cache
def bfloat16_is_faster() -> bool:
    """Whether they are faster than products of float32: always by AMX; AVX512-BF16's are timed, which takes 0.1 ms."""
    return bool(library().bdsa_bfloat16_is_faster())


def description() -> str:
    """Which instructions the kernels use."""
    kernels = library()
    kernels.bdsa_instructions.restype = c_char_p
    threads = "" if kernels.bdsa_parallel() else ", one thread (the compiler lacks OpenMP)"
    return kernels.bdsa_instructions().decode() + threads


def pad(out: Tensor, x: Tensor, padding: int) -> None:
    """See `operators.pad`."""
    take_in(out, x, padding, None)


def take_in(out: Tensor, x: Tensor, padding: int, infinite: Tensor | None) -> None:
    """See `operators.take_in`."""
    name = _of("pad", x) if x.dtype == out.dtype else "pad_to_bfloat16"
    _call(name, structures.Pad(_at(out), _at(x), x.stride(), *x.shape, padding, _at(infinite)), out, x, infinite)


def convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution`."""
    name = _of("convolution", x) if x.dtype == out.dtype else "convolution_from_bfloat16"
    _call(name, _dense(out, x, weight, bias, stride, activation), out, x, weight, bias)


def convolution_pool(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution_pool`."""
    _call(_of("convolution_pool", x), _dense(out, x, weight, bias, stride, activation), out, x, weight, bias)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """See `operators.layer_norm`."""
    rows, channels = x.numel() // x.shape[-1], x.shape[-1]
    operation = structures.LayerNorm(_at(x), _at(weight), _at(bias), rows, channels, len(x), eps)
    _call(_of("layer_norm", x), operation, x, weight, bias)


def mean(out: Tensor, x: Tensor) -> None:
    """See `operators.mean`."""
    _call(_of("mean", x), structures.Mean(_at(out), _at(x), len(x), x.shape[1] * x.shape[2], x.shape[3]), out, x)


def subsample(out: Tensor, x: Tensor, mask: Tensor, stride: int, before: int) -> None:
    """See `operators.subsample`."""
    operation = structures.Subsample(_at(out), _at(x), _at(mask), *x.shape, stride, before, *out.shape[1:])
    _call(_of("subsample", x), operation, out, x, mask)


def average_pool(out: Tensor, x: Tensor, kernel: int, stride: int) -> None:
    """See `operators.average_pool`."""
    operation = structures.AveragePool(_at(out), _at(x), *x.shape, kernel, stride, *out.shape[1:3])
    _call(_of("average_pool", x), operation, out, x)


def products(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """See `operators.products`."""
    operation = structures.Products(_at(x), _board(weight, bias, out, len(bias), x.shape[3]), len(x))
    _call(_of("products", x), operation, out, x, weight, bias)


def decide(logits: Tensor, mask: Tensor, products: Tensor, height: int, width: int, panel: int, column: int,
           offset: float, stride: int) -> None:
    """See `operators.decide`."""
    board = pointer(structures.Board(None, _at(products), products.shape[1], 0))
    name = "decide" if products.shape[2] == library().bdsa_panel() else "decide_bfloat16"  # they differ in the panel
    operation = structures.Decision(_at(logits), _at(mask), board, len(logits), (height, width), logits.shape[1:],
                                    panel, column, stride, offset)
    _call(name, operation, logits, mask, products)


def unit(logits: Tensor, mask: Tensor, x: Tensor, taps: Tensor, context: Tensor, offset: float, stride: int) -> None:
    """See `operators.unit`."""
    weights = structures.Unit(_at(taps), _at(context), x.shape[3], stride, offset)
    operation = structures.UnitDecision(_at(logits), _at(mask), _at(x), weights, len(x), x.shape[1:3], logits.shape[1:])
    _call(_of("unit", x), operation, logits, mask, x, taps, context)


def exact(mask: Tensor, left: Tensor, logits: Tensor, macs: int, dilated_macs: int, height: int, width: int,
          stride: int, reach: int, offsets: Tensor, ahead: Tensor, start: float, scale: float, moved: float) -> None:
    """See `operators.exact`."""
    operation = structures.Exact(
        _at(mask), _at(left), _at(logits), _at(offsets), _at(ahead), len(logits), logits.shape[1:], (height, width),
        stride, reach, len(offsets), macs, dilated_macs, start, scale, moved)
    _call("exact", operation, mask, left, logits, offsets, ahead)


def basic(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool, w1: Tensor, b1: Tensor,
          w2: Tensor, b2: Tensor, projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
          projected_stride: int, everywhere: bool, board: Tensor | None, board_bias: Tensor | None,
          products: Tensor | None, columns: int) -> None:
    """See `operators.basic`."""
    bottleneck(out, x, mask, rows, stride, submanifold, w1, b1, w2, b2, 0, None, None, projected, projection,
               projection_bias, projected_stride, everywhere, board, board_bias, products, columns)


def bottleneck(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool, w1: Tensor,
               b1: Tensor, w2: Tensor, b2: Tensor, group: int, w3: Tensor | None, b3: Tensor | None,
               projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
               projected_stride: int, everywhere: bool, board: Tensor | None, board_bias: Tensor | None,
               products: Tensor | None, columns: int) -> None:
    """See `operators.bottleneck`."""
    shortcut = (0, 0, 0, 0, None) if projected is None else (
        _at(projected), *projected.shape[1:3], projected_stride,
        pointer(_matrix(projection, projection_bias, projected.shape[3])))
    first = _matrix(w1, b1, x.shape[3] * (9 if w3 is None else 1))
    second = _matrix(w2, b2, 9 * len(b1), group)
    block = structures.Residual(
        _at(out), _at(x), _at(mask), *x.shape[:3], *out.shape[1:3], stride, pointer(first), pointer(second),
        None if w3 is None else pointer(_matrix(w3, b3, len(b2))), *shortcut, everywhere, submanifold,
        _board(board, board_bias, products, columns, out.shape[3]), _at(rows))
    _call(_of("residual", x), block, out, x, mask, rows, w1, b1, w2, b2, w3, b3, projected, projection, projection_bias,
          board, board_bias, products)


def convnext(x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float, w1: Tensor, b1: Tensor,
             w2: Tensor, b2: Tensor, response: Tensor | None, response_eps: float, board: Tensor | None,
             board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.convnext`."""
    depthwise = structures.Depthwise(_at(taps), _at(taps_bias), x.shape[3])
    block = structures.ConvNext(
        _at(x), _at(mask), *x.shape[:3], pointer(depthwise), eps, pointer(_matrix(w1, b1, x.shape[3])),
        pointer(_matrix(w2, b2, len(b1))), _at(response), response_eps,
        _board(board, board_bias, products, columns, x.shape[3]), _at(rows))
    _call(_of("convnext", x), block, x, mask, rows, taps, taps_bias, w1, b1, w2, b2, response, board, board_bias,
          products)


def pieces(places: list[tuple[int, int]]) -> ctypes.Array:
    """Pieces of memory for `digests`: address and bytes of each."""
    return (structures.Piece * len(places))(*places)


def digests(memory: ctypes.Array) -> bytes:
    """A digest of what each piece holds, 64 bits one after another."""
    found = (c_uint64 * len(memory))()
    operation = structures.Contents(ctypes.addressof(memory), ctypes.addressof(found), len(memory))
    library().bdsa_contents(byref(operation), torch.get_num_threads())
    return bytes(found)


def _call(name: str, operation: ctypes.Structure, *tensors: Tensor | None) -> None:
    """Run an operation that points into tensors."""
    call(getattr(library(), f"bdsa_{name}"), operation, torch.get_num_threads(), tensors)


def _of(name: str, x: Tensor) -> str:
    """The operation on maps of x's type."""
    return name if x.dtype == torch.float32 else f"{name}_bfloat16"


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _dense(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> ctypes.Structure:
    values = weight.shape[1] ** 2 * x.shape[3]  # kernels are square
    return structures.Dense(
        _at(out), _at(x), pointer(_matrix(weight, bias, values)), len(x), x.shape[1:3],
        Packed(weight, bias).output_size(x, stride), x.shape[3], stride, ACTIVATIONS[activation])


def _board(weight: Tensor | None, bias: Tensor | None, products: Tensor | None, columns: int, channels: int) -> Any:
    if weight is None:
        return None
    matrix = pointer(_matrix(weight, bias, channels))
    return pointer(structures.Board(matrix, _at(products), products.shape[1], columns))


def matrix_words(weight: Tensor, bias: Tensor, values: int, group: int = 0) -> list[Any]:
    """Weight, bias, taps, depth of a tap, columns and group of a packed matrix; see `_matrix`."""
    taps = weight.shape[1]
    depth = group_depth(len(bias), group, weight.shape[3]) if group else values // taps
    return [weight, bias, taps, depth, len(bias), group]


def _matrix(weight: Tensor, bias: Tensor, values: int, group: int = 0) -> structures.Matrix:
    """values: how many a column multiplies, over all taps, without padding; of one group where there are groups."""
    weight, bias, *words = matrix_words(weight, bias, values, group)
    return structures.Matrix(_at(weight), _at(bias), *words, words[2])
