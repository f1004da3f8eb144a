"""Blocks in int8 whose numbers are all exact, so that every way to compute them gives the same to the last bit."""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bdsa.sparse import native, operators, reference_int8
from bdsa.sparse.packing import rows_first, taps_first
from bdsa.sparse.quantised import Bytes, Quantised, quantised

CASES = [(kind, channels, middle, stride, submanifold)
         for kind in ("basic", "bottleneck") for submanifold in (False, True)
         for channels, middle, stride in ((16, 24, 1), (40, 64, 2), (96, 72, 1), (64, 32, 2))
         if kind == "basic" or stride == 1 or not submanifold]


def matrix(generator: torch.Generator, columns: int, depth: int, kernel: int, rows: Bytes, scale: Tensor) -> Quantised:
    """A convolution with weights from -127 to 127, and a bias of whole scales."""
    weight = torch.randint(-127, 128, (columns, depth, kernel, kernel), generator=generator).double()
    weight = rows_first(weight) if kernel == 3 and depth <= 64 else taps_first(weight)
    bias = torch.randint(-99, 100, (columns,), generator=generator) * scale
    form = native.form(torch.bfloat16)
    return quantised(weight * rows.inverse * scale, bias, rows, form, scale)


def block(kind: str, channels: int, middle: int, stride: int, projected: bool) -> tuple[tuple, list[Tensor]]:
    """Arguments of `operators.residual_int8` but for its output, and two copies of that."""
    generator = torch.Generator().manual_seed(channels)
    grid = (9 - 1) // stride + 1, (13 - 1) // stride + 1
    x = torch.randint(-9, 60, (3, 9, 13, channels), generator=generator).bfloat16()
    mask = torch.rand(3, *grid, generator=generator) < 0.6
    columns = middle if kind == "basic" else 2 * middle
    signed, plain = Bytes(2.0, 20.0), Bytes(0.5, 3.0)

    def scale(count: int, least: int) -> Tensor:
        return 2.0 ** -torch.randint(least, least + 3, (count,), generator=generator).double()

    layers = [matrix(generator, middle, channels, 3 if kind == "basic" else 1, signed, scale(middle, 9)),
              matrix(generator, middle, middle, 3, plain, scale(middle, 12))]
    last = scale(columns, 12)
    if kind == "bottleneck":
        layers.append(matrix(generator, columns, middle, 1, plain, last))
    else:
        layers[1] = matrix(generator, columns, middle, 3, plain, last)
    listed = ([m.weight for m in layers], [m.bias for m in layers], [m.scale for m in layers],
              [value for m in layers for value in (m.rows.inverse, m.rows.zero)])
    shortcut = (None, None, None, None, [], 1, False)
    if projected:
        p = matrix(generator, columns, channels, 1, signed, last)
        shortcut = (x, p.weight, p.bias, p.scale, [p.rows.inverse, p.rows.zero], stride, True)
    identity = torch.randint(0, 40, (3, *grid, columns), generator=generator).bfloat16()
    return (x, mask, stride, listed, shortcut), [identity.clone(), identity.clone()]


def results() -> Iterator[tuple[Tensor, Tensor, list[int], list[int]]]:
    """What the kernels and what PyTorch's operators make of every case, and the rows that each counted."""
    for kind, channels, middle, stride, submanifold in CASES:
        for projected in (False, True):
            (x, mask, step, listed, shortcut), outs = block(kind, channels, middle, stride, projected)
            rows = [torch.zeros(2, dtype=torch.int64) for _ in outs]
            for run, out, counted in zip((operators.residual_int8, reference_int8.residual_int8), outs, rows):
                run(out, x, mask, counted, step, submanifold, *listed, *shortcut, None, None, None, 0)
            yield *outs, *(counted.tolist() for counted in rows)
