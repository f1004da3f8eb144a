"""How large the tiles of a kernel are, by its widths, its type and how many rows there can be.

Chosen by roofline estimates and by what compiles for sm_80 and sm_90 without spilling
(tests/sparse/test_gpu_compile.py). None has been timed on a GPU yet.
"""
from __future__ import annotations

from typing import Any

import torch
import triton

from bdsa.sparse.gpu.device import processors

FUSED_MIDDLE = 128    # widest 3x3 layer whose 1x1 layer runs in the same kernel
FUSED_CHANNELS = 384  # widest ConvNeXt block whose MLP is one kernel
Tile = dict[str, Any]


def product_tile(rows: int, depth: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """Of `products.product` and `products.windows`: rows at most, depth of a tap, columns."""
    wide = dtype != torch.float32
    bn = min(128 if wide else 64, _power(columns))
    bk = min(64 if wide else 32, _power(depth))
    while bk > 16 and depth % bk:  # widths of 3 * 2^k: no tile reaches over the edge
        bk //= 2
    bm = 128 if wide else 64
    while bm > 32 and rows * columns < bm * bn * 2 * processors(device):  # few tiles: smaller ones, for all processors
        bm //= 2
    warps = 8 if bm * bn >= 128 * 128 else 4
    return dict(BM=bm, BN=bn, BK=bk, warps=warps, stages=3 if wide else 2)


def fused_tile(rows: int, middle: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tile | None:
    """Of `bottleneck.windows_product`; None where the two layers are kernels of their own."""
    pow2 = middle == _power(middle) and middle <= FUSED_MIDDLE
    if dtype == torch.float32 or not pow2 or columns % min(64, _power(columns)):
        return None
    bm = 128 if rows > 64 * 2 * processors(device) else 64
    return dict(BM=bm, BN=min(64, _power(columns)), BK=min(64, middle), warps=8 if bm * middle >= 128 * 128 else 4,
                stages=3)


def depthwise_tile(channels: int) -> Tile:
    """Of `convnext.depthwise_norm`."""
    width = chunk(channels)
    whole = width * (3 if channels == 3 * width else 1)
    bm = 16
    while bm > 1 and bm * whole > 4096:
        bm //= 2
    return dict(CC=width, BM=bm, warps=4 if bm * whole <= 4096 else 8, stages=2)


def mlp_tile(rows: int, channels: int, hidden: int, dtype: torch.dtype, device: torch.device) -> Tile | None:
    """Of `convnext.mlp`; None where the two layers are kernels of their own."""
    width = chunk(channels)
    if dtype == torch.float32 or channels > FUSED_CHANNELS or hidden % 32 or width < 16:
        return None
    whole = width * (3 if channels == 3 * width else 1)
    bm, bf = 128 if whole <= 192 else 64, 64 if whole <= 128 else 32  # more would spill on sm_80
    while bm > 32 and rows < bm * processors(device):
        bm //= 2
    return dict(CC=width, BM=bm, BF=bf if hidden % bf == 0 else 32, warps=8 if bm * whole >= 64 * 192 else 4, stages=2)


def chunk(channels: int) -> int:
    """Channels of a chunk, a power of two: a third of them, if that is one, else all with what fills up."""
    third = channels // 3
    return third if channels == 3 * third and third == _power(third) else _power(channels)


def group_width(channels: int, group: int) -> int:
    """Columns of a panel of a grouped convolution: as few as a tile may have, for each reads zeros too."""
    return max(16, min(128, _power(group), _power(channels)))


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: exactly, unless PyTorch was told that TF32 will do."""
    matmul = torch.backends.cuda.matmul
    told = getattr(matmul, "fp32_precision", None)  # PyTorch 2.9 and newer, whose `allow_tf32` may raise
    allowed = matmul.allow_tf32 if told is None else told == "tf32"
    return "tf32" if dtype == torch.float32 and allowed else "ieee"


def _power(number: int) -> int:
    """The next power of two, at least 16: the least that a matrix unit takes."""
    return max(16, triton.next_power_of_2(number))
