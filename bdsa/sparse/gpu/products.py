"""Kernels for products of listed rows: 1x1 and 3x3 convolutions, with a block's projection and its sum.

A map is rows of channels, [images * height * width, C]; a product reads the rows of the listed positions and those
around them where they lie. Programs are persistent: a fixed grid goes through as many tiles as the count in memory
asks for. Accumulators are float32.
"""
import triton
import triton.language as tl

from bdsa.sparse.gpu.launch import kernel

IN_ORDER, LISTED, STRIDED = (tl.constexpr(i) for i in range(3))  # which rows a 1x1 product reads
NONE, RELU, GELU = (tl.constexpr(i) for i in range(3))


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """An activation of float32 values."""
    if ACTIVATION == RELU:
        x = tl.where(x < 0, 0.0, x)  # a NaN stays one
    if ACTIVATION == GELU:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return x


@triton.jit
def strided(position, height, width, out_height, out_width, stride):
    """The row of a map at which a convolution of this stride has the middle of its window for an output position."""
    y = position // out_width % out_height * stride
    return (position // (out_height * out_width) * height + y) * width + position % out_width * stride


@triton.jit
def add_product(acc, x, row, live, w, cols, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr,
                PRECISION: tl.constexpr):
    """acc + x[row] @ w[:, cols]. WHOLE: no tile of w reaches over its edge."""
    base = row.to(tl.int64) * K
    for k in range(0, K, BK):
        kk = k + tl.arange(0, BK)
        if WHOLE:
            a = tl.load(x + base[:, None] + kk[None, :], mask=live[:, None], other=0.0)
            b = tl.load(w + kk[:, None] * N + cols[None, :])
        else:
            a = tl.load(x + base[:, None] + kk[None, :], mask=live[:, None] & (kk < K)[None, :], other=0.0)
            b = tl.load(w + kk[:, None] * N + cols[None, :], mask=(kk < K)[:, None] & (cols < N)[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def add_windows(acc, x, position, live, w, cols, first, height, width, out_height, out_width, stride, C: tl.constexpr,
                K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr):
    """acc + the 3x3 convolution of padding 1 at output positions: w [9 * K, N] times channels first.. of x [.., C]."""
    steps: tl.constexpr = (K + BK - 1) // BK
    y = position // out_width % out_height * stride
    z = position % out_width * stride
    base = strided(position, height, width, out_height, out_width, stride).to(tl.int64) * C + first
    for step in range(0, 9 * steps):
        tap = step // steps
        dy = tap // 3 - 1
        dx = tap % 3 - 1
        kk = step % steps * BK + tl.arange(0, BK)
        near = live & (y + dy >= 0) & (y + dy < height) & (z + dx >= 0) & (z + dx < width)
        rows = x + base[:, None] + (dy * width + dx) * C + kk[None, :]
        weights = w + (tap * K + kk)[:, None] * N + cols[None, :]
        if WHOLE:
            a = tl.load(rows, mask=near[:, None], other=0.0)
            b = tl.load(weights)
        else:
            a = tl.load(rows, mask=near[:, None] & (kk < K)[None, :], other=0.0)
            b = tl.load(weights, mask=(kk < K)[:, None] & (cols < N)[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def finish(acc, bias, out, row, live, cols, columns, N: tl.constexpr, ADD: tl.constexpr, ACTIVATION: tl.constexpr,
           ALL: tl.constexpr):
    """Write activation(acc + bias (+ out)) to rows of out. ALL: every column is one of out's."""
    keep = live[:, None] if ALL else live[:, None] & (cols < columns)[None, :]
    if ALL:
        acc += tl.load(bias + cols)[None, :]
    else:
        acc += tl.load(bias + cols, mask=cols < columns, other=0.0)[None, :]
    place = out + row.to(tl.int64)[:, None] * N + cols[None, :]
    if ADD:
        acc += tl.load(place, mask=keep, other=0.0).to(tl.float32)
    tl.store(place, activated(acc, ACTIVATION).to(out.dtype.element_ty), mask=keep)


@kernel
def product(x, at, counts, w, bias, out, most, columns, height, width, out_height, out_width, stride, projected, wp,
            p_height, p_width, p_stride, K: tl.constexpr, N: tl.constexpr, KP: tl.constexpr, COUNT: tl.constexpr,
            READS: tl.constexpr, SCATTER: tl.constexpr, ADD: tl.constexpr, ACTIVATION: tl.constexpr,
            BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """out = activation(x @ w + bias (+ projected @ wp) (+ out)) for listed rows.

    Args:
        at, counts, COUNT: the list and where its length is; COUNT < 0: no list, all `most` rows of out.
        columns: of w that are wanted, the first ones; N is all of them.
        READS: IN_ORDER: row r for the r-th of the list; LISTED: the listed row; STRIDED: the row of a map [height,
            width] that a convolution of this stride reads for the listed one of [out_height, out_width].
        SCATTER: whether rows of out are the listed ones; else the r-th.
        projected, wp, KP: a 1x1 convolution of another map that joins the sum; KP = 0: none.
    """
    n = most if COUNT < 0 else tl.load(counts + COUNT)
    tiles_n = tl.cdiv(columns, BN)
    whole: tl.constexpr = K % BK == 0 and N % BN == 0
    for tile in range(tl.program_id(0), tl.cdiv(n, BM) * tiles_n, tl.num_programs(0)):
        r = tile // tiles_n * BM + tl.arange(0, BM)
        live = r < n
        cols = tile % tiles_n * BN + tl.arange(0, BN)
        position = r if COUNT < 0 else tl.load(at + r, mask=live, other=0)
        if READS == STRIDED:
            row = strided(position, height, width, out_height, out_width, stride)
        else:
            row = position if READS == LISTED else r
        acc = tl.zeros((BM, BN), tl.float32)
        acc = add_product(acc, x, row, live, w, cols, K, N, BK, whole, PRECISION)
        if KP > 0:
            there = strided(position, p_height, p_width, out_height, out_width, p_stride)
            acc = add_product(acc, projected, there, live, wp, cols, KP, N, BK, KP % BK == 0 and N % BN == 0,
                              PRECISION)
        finish(acc, bias, out, position if SCATTER else r, live, cols, columns, N, ADD, ACTIVATION, False)


@kernel
def windows(x, at, counts, w, bias, out, height, width, out_height, out_width, stride, projected, wp, p_height,
            p_width, p_stride, group, C: tl.constexpr, K: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr,
            KP: tl.constexpr, COUNT: tl.constexpr, SCATTER: tl.constexpr, ADD: tl.constexpr, GROUPED: tl.constexpr,
            BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """The 3x3 convolution of padding 1 at listed output positions, activated by a relu; see `product`.

    Args:
        x: rows of C channels of maps [height, width]; what is listed is of [out_height, out_width].
        w: [9, K, N]; of a GROUPED convolution [COLUMNS / N, 9, K, N], a panel of N = BN columns each with the K
            channels that it reads, the first of which `packing.first_channel` says; `group`: channels of a group.
        COLUMNS: of out.
    """
    n = tl.load(counts + COUNT)
    tiles_n: tl.constexpr = (COLUMNS + BN - 1) // BN
    whole: tl.constexpr = K % BK == 0 and N % BN == 0
    for tile in range(tl.program_id(0), tl.cdiv(n, BM) * tiles_n, tl.num_programs(0)):
        r = tile // tiles_n * BM + tl.arange(0, BM)
        live = r < n
        panel = tile % tiles_n
        cols = panel * BN + tl.arange(0, BN)
        position = tl.load(at + r, mask=live, other=0)
        acc = tl.zeros((BM, BN), tl.float32)
        if GROUPED:
            first = tl.minimum(panel * BN // group * group, C - K)
            acc = add_windows(acc, x, position, live, w + panel * 9 * K * N, tl.arange(0, BN), first, height, width,
                              out_height, out_width, stride, C, K, N, BK, whole, PRECISION)
        else:
            acc = add_windows(acc, x, position, live, w, cols, 0, height, width, out_height, out_width, stride, C, K,
                              N, BK, whole, PRECISION)
        if KP > 0:
            there = strided(position, p_height, p_width, out_height, out_width, p_stride)
            acc = add_product(acc, projected, there, live, wp, cols, KP, COLUMNS, BK,
                              KP % BK == 0 and COLUMNS % BN == 0, PRECISION)
        finish(acc, bias, out, position if SCATTER else r, live, cols, COLUMNS, COLUMNS, ADD, RELU,
               COLUMNS % BN == 0)
