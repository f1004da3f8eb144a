"""The native kernels as functions of tensors: pointers and sizes out, the rest is C++."""
from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int64, c_uint64, c_void_p, pointer
from typing import Any

import torch
from torch import Tensor

from bdsa.sparse.build import Unavailable, library
from bdsa.sparse.packing import Form, Packed, group_depth
from bdsa.sparse.recording import call

BFLOAT16_PANEL = 32
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}


def _structure(name: str, *fields: tuple[str, object]) -> type[ctypes.Structure]:
    """A structure of the native sources; several fields of a type are named in one string."""
    flat = [(each, kind) for names, kind in fields for each in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": flat})


_Grid = _structure("Grid", ("height width", c_int))
_Matrix = _structure("Matrix", ("packed bias", c_void_p), ("taps depth columns group channels", c_int))
_Depthwise = _structure("Depthwise", ("weights bias", c_void_p), ("channels", c_int))
_Board = _structure("Board", ("matrix", POINTER(_Matrix)), ("products", c_void_p), ("positions", c_int64),
                    ("columns", c_int))
_Unit = _structure("Unit", ("taps context", c_void_p), ("channels stride", c_int), ("offset", c_float))
_Pad = _structure("Pad", ("out x", c_void_p), ("strides", c_int64 * 4), ("images height width channels padding", c_int),
                  ("infinite", c_void_p))
_Dense = _structure("Dense", ("out x", c_void_p), ("matrix", POINTER(_Matrix)), ("images", c_int), ("from_ to", _Grid),
                    ("channels stride activation", c_int))
_LayerNorm = _structure("LayerNorm", ("x weight bias", c_void_p), ("rows", c_int64), ("channels images", c_int),
                        ("eps", c_float))
_Mean = _structure("Mean", ("out x", c_void_p), ("images positions channels", c_int))
_Subsample = _structure("Subsample", ("out x mask", c_void_p),
                        ("images height width channels stride before out_height out_width out_channels", c_int))
_AveragePool = _structure("AveragePool", ("out x", c_void_p),
                          ("images height width channels kernel stride out_height out_width", c_int))
_Products = _structure("Products", ("x", c_void_p), ("board", POINTER(_Board)), ("images", c_int))
_Decision = _structure("Decision", ("logits mask", c_void_p), ("board", POINTER(_Board)), ("images", c_int),
                       ("from_ to", _Grid), ("panel column stride", c_int), ("offset", c_float))
_UnitDecision = _structure("UnitDecision", ("logits mask x", c_void_p), ("unit", _Unit), ("images", c_int),
                           ("from_ to", _Grid))
_Exact = _structure(
    "Exact", ("mask left logits offsets ahead", c_void_p), ("images", c_int), ("to wide", _Grid),
    ("stride reach points", c_int), ("macs dilated_macs", c_int64), ("start scale moved", c_double))
_Residual = _structure(
    "Residual", ("out x mask", c_void_p), ("images height width out_height out_width stride", c_int),
    ("first second third", POINTER(_Matrix)), ("projected", c_void_p),
    ("projected_height projected_width projected_stride", c_int), ("projection", POINTER(_Matrix)),
    ("everywhere", c_int), ("board", POINTER(_Board)), ("rows", c_void_p))
_Piece = _structure("Piece", ("data", c_void_p), ("bytes", c_int64))
_Contents = _structure("Contents", ("pieces digests", c_void_p), ("count", c_int))
_ConvNext = _structure(
    "ConvNext", ("x mask", c_void_p), ("images height width", c_int), ("depthwise", POINTER(_Depthwise)),
    ("eps", c_float), ("first second", POINTER(_Matrix)), ("response", c_void_p), ("response_eps", c_float),
    ("board", POINTER(_Board)), ("rows", c_void_p))


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
    _call(name, _Pad(_at(out), _at(x), x.stride(), *x.shape, padding, _at(infinite)), out, x, infinite)


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
    operation = _LayerNorm(_at(x), _at(weight), _at(bias), rows, channels, len(x), eps)
    _call(_of("layer_norm", x), operation, x, weight, bias)


def mean(out: Tensor, x: Tensor) -> None:
    """See `operators.mean`."""
    _call(_of("mean", x), _Mean(_at(out), _at(x), len(x), x.shape[1] * x.shape[2], x.shape[3]), out, x)


def subsample(out: Tensor, x: Tensor, mask: Tensor, stride: int, before: int) -> None:
    """See `operators.subsample`."""
    operation = _Subsample(_at(out), _at(x), _at(mask), *x.shape, stride, before, *out.shape[1:])
    _call(_of("subsample", x), operation, out, x, mask)


def average_pool(out: Tensor, x: Tensor, kernel: int, stride: int) -> None:
    """See `operators.average_pool`."""
    _call(_of("average_pool", x), _AveragePool(_at(out), _at(x), *x.shape, kernel, stride, *out.shape[1:3]), out, x)


def products(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """See `operators.products`."""
    operation = _Products(_at(x), _board(weight, bias, out, len(bias), x.shape[3]), len(x))
    _call(_of("products", x), operation, out, x, weight, bias)


def decide(logits: Tensor, mask: Tensor, products: Tensor, height: int, width: int, panel: int, column: int,
           offset: float, stride: int) -> None:
    """See `operators.decide`."""
    board = pointer(_Board(None, _at(products), products.shape[1], 0))
    name = "decide" if products.shape[2] == library().bdsa_panel() else "decide_bfloat16"  # they differ in the panel
    _call(name, _Decision(_at(logits), _at(mask), board, len(logits), (height, width), logits.shape[1:], panel,
                              column, stride, offset), logits, mask, products)


def unit(logits: Tensor, mask: Tensor, x: Tensor, taps: Tensor, context: Tensor, offset: float, stride: int) -> None:
    """See `operators.unit`."""
    weights = _Unit(_at(taps), _at(context), x.shape[3], stride, offset)
    operation = _UnitDecision(_at(logits), _at(mask), _at(x), weights, len(x), x.shape[1:3], logits.shape[1:])
    _call(_of("unit", x), operation, logits, mask, x, taps, context)


def exact(mask: Tensor, left: Tensor, logits: Tensor, macs: int, dilated_macs: int, height: int, width: int,
          stride: int, reach: int, offsets: Tensor, ahead: Tensor, start: float, scale: float, moved: float) -> None:
    """See `operators.exact`."""
    operation = _Exact(_at(mask), _at(left), _at(logits), _at(offsets), _at(ahead), len(logits), logits.shape[1:],
                       (height, width), stride, reach, len(offsets), macs, dilated_macs, start, scale, moved)
    _call("exact", operation, mask, left, logits, offsets, ahead)


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
        _at(projected), *projected.shape[1:3], projected_stride,
        pointer(_matrix(projection, projection_bias, projected.shape[3])))
    first = _matrix(w1, b1, x.shape[3] * (9 if w3 is None else 1))
    second = _matrix(w2, b2, 9 * len(b1), group)
    block = _Residual(_at(out), _at(x), _at(mask), *x.shape[:3], *out.shape[1:3], stride,
                      pointer(first), pointer(second), None if w3 is None else pointer(_matrix(w3, b3, len(b2))),
                      *shortcut, everywhere, _board(board, board_bias, products, columns, out.shape[3]), _at(rows))
    _call(_of("residual", x), block, out, x, mask, rows, w1, b1, w2, b2, w3, b3, projected, projection, projection_bias,
          board, board_bias, products)


def convnext(x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float, w1: Tensor, b1: Tensor,
             w2: Tensor, b2: Tensor, response: Tensor | None, response_eps: float, board: Tensor | None,
             board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.convnext`."""
    depthwise = _Depthwise(_at(taps), _at(taps_bias), x.shape[3])
    block = _ConvNext(_at(x), _at(mask), *x.shape[:3], pointer(depthwise), eps, pointer(_matrix(w1, b1, x.shape[3])),
                      pointer(_matrix(w2, b2, len(b1))), _at(response), response_eps,
                      _board(board, board_bias, products, columns, x.shape[3]), _at(rows))
    _call(_of("convnext", x), block, x, mask, rows, taps, taps_bias, w1, b1, w2, b2, response, board, board_bias,
          products)


def pieces(places: list[tuple[int, int]]) -> ctypes.Array:
    """Pieces of memory for `digests`: address and bytes of each."""
    return (_Piece * len(places))(*places)


def digests(memory: ctypes.Array) -> bytes:
    """A digest of what each piece holds, 64 bits one after another."""
    found = (c_uint64 * len(memory))()
    operation = _Contents(ctypes.addressof(memory), ctypes.addressof(found), len(memory))
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
    return _Dense(_at(out), _at(x), pointer(_matrix(weight, bias, values)), len(x), x.shape[1:3],
                  Packed(weight, bias).output_size(x, stride), x.shape[3], stride, ACTIVATIONS[activation])


def _board(weight: Tensor | None, bias: Tensor | None, products: Tensor | None, columns: int, channels: int) -> Any:
    if weight is None:
        return None
    return pointer(_Board(pointer(_matrix(weight, bias, channels)), _at(products), products.shape[1], columns))


def matrix_words(weight: Tensor, bias: Tensor, values: int, group: int = 0) -> list[Any]:
    """Weight, bias, taps, depth of a tap, columns and group of a packed matrix; see `_matrix`."""
    taps = weight.shape[1]
    depth = group_depth(len(bias), group, weight.shape[3]) if group else values // taps
    return [weight, bias, taps, depth, len(bias), group]


def _matrix(weight: Tensor, bias: Tensor, values: int, group: int = 0) -> _Matrix:
    """values: how many a column multiplies, over all taps, without padding; of one group where there are groups."""
    weight, bias, *words = matrix_words(weight, bias, values, group)
    return _Matrix(_at(weight), _at(bias), *words, words[2])
