"""The Triton kernels as torch operators, `torch.ops.bdsa.*`, so that profiler and compile see them.

Maps are [B, H, W, C], contiguous, in bfloat16, float16 or float32; compact rows [n, C]; masks bool [B, h, w]; biases,
logits and products float32; lists and counts as `lists.Lists` describes them. What is named `out` receives the result.
"""
from __future__ import annotations

import torch
from torch import Tensor

from bdsa.sparse.gpu import bottleneck, convnext, positions, products
from bdsa.sparse.gpu.launch import launch, persistent
from bdsa.sparse.gpu.tiles import depthwise_tile, fused_tile, mlp_tile, precision, product_tile

BLOCK = 1024         # positions of a chunk of a list
WARPS = 8            # of a program that lists: with fewer its registers spill
PARTS = 16           # of an image whose context is summed up by several programs
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}
READS = {"in order": 0, "listed": 1, "strided": 2}
_LISTS = "Tensor({}!) counts, Tensor({}!) at, Tensor({}!)? outside, Tensor({}!)? dilated, Tensor({}!)? segments, " \
         "int d_height, int d_width, int d_stride"
_UNIT = "Tensor(a!) logits, Tensor(b!) mask, Tensor products, Tensor offset, int column, int height, int width, " \
        "int stride"
_SHORTCUT = "Tensor? projected, Tensor? projection, int p_stride"
SCHEMAS = {
    # A unit's logits and mask [B, h, w] from the ten columns of its products [B * height * width, panel].
    "decide_positions": f"({_UNIT})",
    # The same and the lists, by one program an image.
    "decide_and_list": f"({_UNIT}, {_LISTS.format(*'cdefg')})",
    # The lists of a mask. D(m) is dilated on a map [d_height, d_width].
    "list_positions": f"(Tensor mask, {_LISTS.format(*'abcde')})",
    # activation(x @ weight + bias (+ out)) in float32 sums; which rows are read and written: `products.product`.
    # count: the place in counts; without a list all rows. grid: of the listed positions.
    "product_at": "(Tensor(a!) out, Tensor x, Tensor? at, Tensor? counts, int count, Tensor weight, Tensor bias, "
                  "int columns, int height, int width, str reads, int stride, bool scatter, bool add, str activation, "
                  f"{_SHORTCUT})",
    # A 3x3 convolution of padding 1, and a relu. group: channels of a group, or 0.
    "windows_at": "(Tensor(a!) out, Tensor x, Tensor at, Tensor counts, int count, Tensor weight, Tensor bias, "
                  f"int height, int width, int stride, bool scatter, bool add, int group, {_SHORTCUT})",
    # relu(out + relu(3x3 of x) @ w3 + b3) at m.
    "windows_product_at": "(Tensor(a!) out, Tensor x, Tensor at, Tensor counts, Tensor w2, Tensor b2, Tensor w3, "
                          f"Tensor b3, int height, int width, int stride, {_SHORTCUT})",
    # Depthwise 7x7 and norm at m: compact rows.
    "depthwise_norm_at": "(Tensor(a!) out, Tensor x, Tensor at, Tensor counts, Tensor taps, Tensor bias, float eps)",
    # out += gelu(rows @ w1 + b1) @ w2 + b2 at m.
    "mlp_at": "(Tensor(a!) out, Tensor rows, Tensor at, Tensor counts, Tensor w1, Tensor b1, Tensor w2, Tensor b2)",
    # ConvNeXt v2's response norm over an image's rows, its bias left out, in place.
    "response_at": "(Tensor(a!) rows, Tensor at, Tensor counts, Tensor segments, Tensor weight, float eps, int size)",
}


def decide_positions(logits: Tensor, mask: Tensor, products: Tensor, offset: Tensor, column: int, height: int,
                     width: int, stride: int) -> None:
    size, panel = height * width, products.shape[-1]
    sums = products.new_empty(len(logits), PARTS)
    launch(positions.context_sums, (len(logits) * PARTS,), products, sums, size, panel, column, -(-size // PARTS),
           PARTS=PARTS, BLOCK=BLOCK)
    chunks = _chunks(logits)
    launch(positions.decide, (len(logits) * chunks,), products, sums, offset, logits, _bytes(mask), None, None, None,
           None, None, height, width, *logits.shape[1:], stride, panel, column, chunks, 1, 1, 1, PARTS=PARTS,
           LIST=False, OUTSIDES=False, DILATE=False, SEGMENTS=False, BLOCK=BLOCK, warps=WARPS)


def decide_and_list(logits: Tensor, mask: Tensor, products: Tensor, offset: Tensor, column: int, height: int,
                    width: int, stride: int, counts: Tensor, at: Tensor, outside: Tensor | None,
                    dilated: Tensor | None, segments: Tensor | None, d_height: int, d_width: int,
                    d_stride: int) -> None:
    chunks = _chunks(logits)
    launch(positions.decide, (len(logits),), products, None, offset, logits, _bytes(mask), at, outside, dilated, counts,
           segments, height, width, *logits.shape[1:], stride, products.shape[-1], column, chunks, d_height, d_width,
           d_stride, PARTS=0, LIST=True, OUTSIDES=outside is not None, DILATE=dilated is not None,
           SEGMENTS=segments is not None, BLOCK=BLOCK, warps=WARPS)


def list_positions(mask: Tensor, counts: Tensor, at: Tensor, outside: Tensor | None, dilated: Tensor | None,
                   segments: Tensor | None, d_height: int, d_width: int, d_stride: int) -> None:
    chunks = _chunks(mask)
    programs = max(chunks, -(-d_height * d_width // BLOCK) if dilated is not None else 0)
    launch(positions.list_mask, (len(mask) * programs,), _bytes(mask), at, outside, dilated, counts, segments,
           *mask.shape[1:], chunks, programs, d_height, d_width, d_stride, OUTSIDES=outside is not None,
           DILATE=dilated is not None, SEGMENTS=segments is not None, BLOCK=BLOCK, warps=WARPS)


def product_at(out: Tensor, x: Tensor, at: Tensor | None, counts: Tensor | None, count: int, weight: Tensor,
               bias: Tensor, columns: int, height: int, width: int, reads: str, stride: int, scatter: bool, add: bool,
               activation: str, projected: Tensor | None, projection: Tensor | None, p_stride: int) -> None:
    rows, depth, whole = out.numel() // out.shape[-1], x.shape[-1], weight.shape[-1]
    tile = product_tile(rows, depth, whole, x.dtype, x.device)  # one for all columns of a board: compiled once
    launch(products.product, persistent(x.device, _tiles(rows, columns, tile)), x, at, counts, weight, bias, out, rows,
           columns, *_size(x), height, width, stride, projected, projection, *_size(projected), p_stride, K=depth,
           N=whole, KP=0 if projected is None else projected.shape[3], COUNT=count, READS=READS[reads],
           SCATTER=scatter, ADD=add, ACTIVATION=ACTIVATIONS[activation], PRECISION=precision(x.dtype), **tile)


def windows_at(out: Tensor, x: Tensor, at: Tensor, counts: Tensor, count: int, weight: Tensor, bias: Tensor,
               height: int, width: int, stride: int, scatter: bool, add: bool, group: int, projected: Tensor | None,
               projection: Tensor | None, p_stride: int) -> None:
    depth, columns = weight.shape[-2:]
    tile = product_tile(len(at), depth, columns, x.dtype, x.device)
    if group:
        tile["BN"] = columns
    launch(products.windows, persistent(x.device, _tiles(len(at), len(bias), tile)), x, at, counts, weight, bias, out,
           *_size(x), height, width, stride, projected, projection, *_size(projected), p_stride, group,
           C=x.shape[3], K=depth, N=columns, COLUMNS=len(bias), KP=0 if projected is None else projected.shape[3],
           COUNT=count, SCATTER=scatter, ADD=add, GROUPED=group > 0, PRECISION=precision(x.dtype), **tile)


def windows_product_at(out: Tensor, x: Tensor, at: Tensor, counts: Tensor, w2: Tensor, b2: Tensor, w3: Tensor,
                       b3: Tensor, height: int, width: int, stride: int, projected: Tensor | None,
                       projection: Tensor | None, p_stride: int) -> None:
    tile = fused_tile(len(at), len(b2), len(b3), x.dtype, x.device)
    launch(bottleneck.windows_product, persistent(x.device, -(-len(at) // tile["BM"])), x, at, counts, w2, b2, w3, b3,
           out, *_size(x), height, width, stride, projected, projection, *_size(projected), p_stride, C=len(b2),
           N=len(b3), KP=0 if projected is None else projected.shape[3], COUNT=positions.IN_MASK.value,
           PRECISION=precision(x.dtype), **tile)


def depthwise_norm_at(out: Tensor, x: Tensor, at: Tensor, counts: Tensor, taps: Tensor, bias: Tensor,
                      eps: float) -> None:
    tile = depthwise_tile(x.shape[3])
    launch(convnext.depthwise_norm, persistent(x.device, -(-len(at) // tile["BM"])), x, at, counts, taps, bias, out,
           eps, *_size(x), C=x.shape[3], **tile)


def mlp_at(out: Tensor, rows: Tensor, at: Tensor, counts: Tensor, w1: Tensor, b1: Tensor, w2: Tensor,
           b2: Tensor) -> None:
    tile = mlp_tile(len(at), len(b2), len(b1), rows.dtype, rows.device)
    launch(convnext.mlp, persistent(rows.device, -(-len(at) // tile["BM"])), rows, at, counts, w1, b1, w2, b2, out,
           C=len(b2), F=len(b1), **tile)


def response_at(rows: Tensor, at: Tensor, counts: Tensor, segments: Tensor, weight: Tensor, eps: float,
                size: int) -> None:
    images, hidden = len(segments), len(weight)
    sizes = weight.new_empty(images, hidden)
    launch(convnext.response_sizes, (images, -(-hidden // 64)), rows, segments, sizes, segments.shape[1], F=hidden,
           BM=32, BF=64)
    factors = 1 + weight * (sizes / (sizes.mean(dim=1, keepdim=True) + eps))
    tiles = -(-len(at) // 32) * -(-hidden // 64)
    launch(convnext.respond, persistent(rows.device, tiles), rows, at, counts, factors, size, F=hidden, BM=32, BF=64)


def _bytes(mask: Tensor) -> Tensor:
    return mask.view(torch.uint8)


def _chunks(grid: Tensor) -> int:
    """Of each image of [B, h, w], of which there may be none."""
    return -(-grid.shape[1] * grid.shape[2] // BLOCK)


def _size(x: Tensor | None) -> tuple[int, int]:
    """Height and width of a map; compact rows and what is missing have none."""
    return (1, 1) if x is None or x.dim() != 4 else (x.shape[1], x.shape[2])


def _tiles(rows: int, columns: int, tile: dict) -> int:
    return -(-rows // tile["BM"]) * -(-columns // tile["BN"])


_library = torch.library.Library("bdsa", "FRAGMENT")
for _name, _schema in SCHEMAS.items():
    _library.define(f"{_name}{_schema} -> ()")
    _library.impl(_name, globals()[_name], "CUDA")
    _library.impl(_name, globals()[_name], "CPU")  # in Triton's interpreter
    _library.impl(_name, lambda *arguments: None, "Meta")  # shapes are the caller's: nothing to say to torch.compile
    globals()[_name] = getattr(torch.ops.bdsa, _name).default
