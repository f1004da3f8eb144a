"""Kernels for ConvNeXt's blocks at listed positions: depthwise 7x7 with its norm, the whole MLP, the response norm.

Channels lie in one chunk of a power of two, or in three: widths of 3 * 2^k then need neither padding nor spills.
"""
import triton
import triton.language as tl

from bdsa.sparse.gpu.launch import kernel
from bdsa.sparse.gpu.positions import IN_MASK
from bdsa.sparse.gpu.products import GELU, activated


@triton.jit
def neighbour(acc, rows, weights, near, c, real, WHOLE: tl.constexpr):
    """acc + a tap's rows times its weights."""
    if WHOLE:
        x = tl.load(rows + c[None, :], mask=near[:, None], other=0.0)
        w = tl.load(weights + c)
    else:
        x = tl.load(rows + c[None, :], mask=near[:, None] & real[None, :], other=0.0)
        w = tl.load(weights + c, mask=real, other=0.0)
    return acc + x.to(tl.float32) * w.to(tl.float32)[None, :]


@kernel
def depthwise_norm(x, at, counts, taps, bias, out, eps, height, width, C: tl.constexpr, CC: tl.constexpr,
                   BM: tl.constexpr):
    """Depthwise 7x7 of x at the positions of m, normalised over the channels: compact rows out.

    The norm's weight and bias are in the next layer. taps: [49, C], bias: float32 [C]. C is 3 * CC, or CC its next
    power of two.
    """
    three: tl.constexpr = C == 3 * CC
    whole: tl.constexpr = three or C == CC
    n = tl.load(counts + IN_MASK)
    c = tl.arange(0, CC)
    real = c < C
    for tile in range(tl.program_id(0), tl.cdiv(n, BM), tl.num_programs(0)):
        r = tile * BM + tl.arange(0, BM)
        live = r < n
        position = tl.load(at + r, mask=live, other=0)
        y = position // width % height
        z = position % width
        acc = tl.zeros((BM, CC), tl.float32) + tl.load(bias + c, mask=real, other=0.0)[None, :]
        second = tl.zeros((BM, CC), tl.float32)
        third = tl.zeros((BM, CC), tl.float32)
        if three:
            second += tl.load(bias + CC + c)[None, :]
            third += tl.load(bias + 2 * CC + c)[None, :]
        for tap in range(49):
            dy = tap // 7 - 3
            dx = tap % 7 - 3
            near = live & (y + dy >= 0) & (y + dy < height) & (z + dx >= 0) & (z + dx < width)
            rows = x + (position + dy * width + dx).to(tl.int64)[:, None] * C
            acc = neighbour(acc, rows, taps + tap * C, near, c, real, whole)
            if three:
                second = neighbour(second, rows + CC, taps + tap * C + CC, near, c, real, True)
                third = neighbour(third, rows + 2 * CC, taps + tap * C + 2 * CC, near, c, real, True)
        total = tl.sum(acc, 1)
        if three:
            total += tl.sum(second, 1) + tl.sum(third, 1)
        mean = total / C
        acc = acc - mean[:, None]
        if not whole:
            acc = tl.where(real[None, :], acc, 0.0)
        squares = tl.sum(acc * acc, 1)
        if three:
            second = second - mean[:, None]
            third = third - mean[:, None]
            squares += tl.sum(second * second, 1) + tl.sum(third * third, 1)
        scale = tl.rsqrt(squares / C + eps)[:, None]
        place = out + r.to(tl.int64)[:, None] * C + c[None, :]
        keep = live[:, None] if whole else live[:, None] & real[None, :]
        tl.store(place, (acc * scale).to(out.dtype.element_ty), mask=keep)
        if three:
            tl.store(place + CC, (second * scale).to(out.dtype.element_ty), mask=keep)
            tl.store(place + 2 * CC, (third * scale).to(out.dtype.element_ty), mask=keep)


@triton.jit
def add_rows(acc, bias, out, row, live, c, real, C: tl.constexpr, WHOLE: tl.constexpr):
    """out[row] += acc + bias."""
    keep = live[:, None] if WHOLE else live[:, None] & real[None, :]
    acc += tl.load(bias + c, mask=real, other=0.0)[None, :]
    place = out + row.to(tl.int64)[:, None] * C + c[None, :]
    acc += tl.load(place, mask=keep, other=0.0).to(tl.float32)
    tl.store(place, acc.to(out.dtype.element_ty), mask=keep)


@kernel
def mlp(rows, at, counts, w1, b1, w2, b2, out, C: tl.constexpr, CC: tl.constexpr, F: tl.constexpr, BM: tl.constexpr,
        BF: tl.constexpr):
    """out += gelu(rows @ w1 + b1) @ w2 + b2 at m: the hidden layer, F wide, never leaves the chip. F % BF == 0."""
    three: tl.constexpr = C == 3 * CC
    whole: tl.constexpr = three or C == CC
    n = tl.load(counts + IN_MASK)
    c = tl.arange(0, CC)
    real = c < C if not three else c < CC
    for tile in range(tl.program_id(0), tl.cdiv(n, BM), tl.num_programs(0)):
        r = tile * BM + tl.arange(0, BM)
        live = r < n
        keep = live[:, None] if whole else live[:, None] & real[None, :]
        place = rows + r.to(tl.int64)[:, None] * C + c[None, :]
        a0 = tl.load(place, mask=keep, other=0.0)
        acc0 = tl.zeros((BM, CC), tl.float32)
        if three:
            a1 = tl.load(place + CC, mask=keep, other=0.0)
            a2 = tl.load(place + 2 * CC, mask=keep, other=0.0)
            acc1 = tl.zeros((BM, CC), tl.float32)
            acc2 = tl.zeros((BM, CC), tl.float32)
        for start in range(0, F, BF):
            f = start + tl.arange(0, BF)
            up = w1 + c[:, None] * F + f[None, :]
            down = w2 + f[:, None] * C + c[None, :]
            if three:
                h = tl.dot(a0, tl.load(up))
                h = tl.dot(a1, tl.load(up + CC * F), h)
                h = tl.dot(a2, tl.load(up + 2 * CC * F), h)
            elif whole:
                h = tl.dot(a0, tl.load(up))
            else:
                h = tl.dot(a0, tl.load(up, mask=real[:, None], other=0.0))
            h = activated(h + tl.load(b1 + f)[None, :], GELU).to(a0.dtype)
            if three:
                acc0 = tl.dot(h, tl.load(down), acc0)
                acc1 = tl.dot(h, tl.load(down + CC), acc1)
                acc2 = tl.dot(h, tl.load(down + 2 * CC), acc2)
            elif whole:
                acc0 = tl.dot(h, tl.load(down), acc0)
            else:
                acc0 = tl.dot(h, tl.load(down, mask=real[None, :], other=0.0), acc0)
        position = tl.load(at + r, mask=live, other=0)
        add_rows(acc0, b2, out, position, live, c, real, C, whole)
        if three:
            add_rows(acc1, b2 + CC, out + CC, position, live, c, real, C, True)
            add_rows(acc2, b2 + 2 * CC, out + 2 * CC, position, live, c, real, C, True)


@kernel
def response_sizes(rows, segments, sizes, chunks, F: tl.constexpr, BM: tl.constexpr, BF: tl.constexpr):
    """Root of the sum of squares of each column over an image's rows, float32 [images, F]; always in the same order."""
    image = tl.program_id(0)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    real = f < F
    total = tl.zeros((BF,), tl.float32)
    for chunk in range(chunks):
        first = tl.load(segments + (image * chunks + chunk) * 2)
        number = tl.load(segments + (image * chunks + chunk) * 2 + 1)
        for start in range(0, number, BM):
            r = start + tl.arange(0, BM)
            x = tl.load(rows + (first + r).to(tl.int64)[:, None] * F + f[None, :],
                        mask=(r < number)[:, None] & real[None, :], other=0.0).to(tl.float32)
            total += tl.sum(x * x, 0)
    tl.store(sizes + image * F + f, tl.sqrt(total), mask=real)


@kernel
def respond(rows, at, counts, factors, size, F: tl.constexpr, BM: tl.constexpr, BF: tl.constexpr):
    """rows *= the factors of their image, float32 [images, F], in place. size: positions of an image."""
    n = tl.load(counts + IN_MASK)
    tiles_f: tl.constexpr = (F + BF - 1) // BF
    for tile in range(tl.program_id(0), tl.cdiv(n, BM) * tiles_f, tl.num_programs(0)):
        r = tile // tiles_f * BM + tl.arange(0, BM)
        f = tile % tiles_f * BF + tl.arange(0, BF)
        live = r < n
        keep = live[:, None] & (f < F)[None, :]
        image = tl.load(at + r, mask=live, other=0) // size
        place = rows + r.to(tl.int64)[:, None] * F + f[None, :]
        factor = tl.load(factors + image[:, None] * F + f[None, :], mask=keep, other=0.0)
        tl.store(place, (tl.load(place, mask=keep, other=0.0).to(tl.float32) * factor).to(rows.dtype.element_ty),
                 mask=keep)
