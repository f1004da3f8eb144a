"""The structures of the native sources, field by field: what an operation points into, and its sizes."""
from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_float, c_int, c_int64, c_void_p


def _structure(name: str, *fields: tuple[str, object]) -> type[ctypes.Structure]:
    """A structure of the native sources; several fields of a type are named in one string."""
    flat = [(each, kind) for names, kind in fields for each in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": flat})


Grid = _structure("Grid", ("height width", c_int))
Matrix = _structure("Matrix", ("packed bias", c_void_p), ("taps depth columns group channels", c_int),
                    ("scale", c_void_p), ("inverse zero", c_float))
Depthwise = _structure("Depthwise", ("weights bias", c_void_p), ("channels", c_int))
Board = _structure("Board", ("matrix", POINTER(Matrix)), ("products", c_void_p), ("positions", c_int64),
                   ("columns", c_int))
Unit = _structure("Unit", ("taps context", c_void_p), ("channels stride", c_int), ("offset", c_float))
Pad = _structure("Pad", ("out x", c_void_p), ("strides", c_int64 * 4), ("images height width channels padding", c_int),
                 ("infinite", c_void_p))
Dense = _structure("Dense", ("out x", c_void_p), ("matrix", POINTER(Matrix)), ("images", c_int), ("from_ to", Grid),
                   ("channels stride activation", c_int))
LayerNorm = _structure("LayerNorm", ("x weight bias", c_void_p), ("rows", c_int64), ("channels images", c_int),
                       ("eps", c_float))
Mean = _structure("Mean", ("out x", c_void_p), ("images positions channels", c_int))
Subsample = _structure("Subsample", ("out x mask", c_void_p),
                        ("images height width channels stride before out_height out_width out_channels", c_int))
AveragePool = _structure("AveragePool", ("out x", c_void_p),
                         ("images height width channels kernel stride out_height out_width", c_int))
Products = _structure("Products", ("x", c_void_p), ("board", POINTER(Board)), ("images", c_int))
Decision = _structure("Decision", ("logits mask", c_void_p), ("board", POINTER(Board)), ("images", c_int),
                      ("from_ to", Grid), ("panel column stride", c_int), ("offset", c_float))
UnitDecision = _structure("UnitDecision", ("logits mask x", c_void_p), ("unit", Unit), ("images", c_int),
                          ("from_ to", Grid))
Exact = _structure(
    "Exact", ("mask left logits offsets ahead", c_void_p), ("images", c_int), ("to wide", Grid),
    ("stride reach points", c_int), ("macs dilated_macs", c_int64), ("start scale moved", c_double))
Residual = _structure(
    "Residual", ("out x mask", c_void_p), ("images height width out_height out_width stride", c_int),
    ("first second third", POINTER(Matrix)), ("projected", c_void_p),
    ("projected_height projected_width projected_stride", c_int), ("projection", POINTER(Matrix)),
    ("everywhere submanifold", c_int), ("board", POINTER(Board)), ("rows", c_void_p))
Piece = _structure("Piece", ("data", c_void_p), ("bytes", c_int64))
Contents = _structure("Contents", ("pieces digests", c_void_p), ("count", c_int))
ConvNext = _structure(
    "ConvNext", ("x mask", c_void_p), ("images height width", c_int), ("depthwise", POINTER(Depthwise)),
    ("eps", c_float), ("first second", POINTER(Matrix)), ("response", c_void_p), ("response_eps", c_float),
    ("board", POINTER(Board)), ("rows", c_void_p))
