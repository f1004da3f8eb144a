"""Kernels that decide and list: a unit's logits from its products, its mask, and the positions of m, of D(m), and
of what is not in m, in one pass.

A list is flat positions (image * height * width + row * width + column), int32. Within a chunk they are in order; the
chunks come in any order, by one atomic addition each. counts, int32 [4]: positions of D(m), of m, and outside of m.
"""
import triton
import triton.language as tl

from bdsa.sparse.gpu.launch import kernel

IN_DILATED, IN_MASK, OUTSIDE = (tl.constexpr(i) for i in range(3))  # places in counts


@triton.jit
def append(chosen, position, at, count):
    """Put the chosen positions, 0 or 1 each, at the end of a list; returns where they begin there, and their number."""
    number = tl.sum(chosen, 0)
    first = tl.atomic_add(count, number)
    tl.store(at + first + tl.cumsum(chosen, 0) - chosen, position, mask=chosen != 0)
    return first, number


@triton.jit
def list_chunk(chosen, o, inside, image, chunk, chunks, size, at, outside_at, counts, segments, OUTSIDES: tl.constexpr,
               SEGMENTS: tl.constexpr):
    """List one chunk of an image's output positions o. segments: [images, chunks, 2], its part's place and length."""
    first, number = append(chosen, image * size + o, at, counts + IN_MASK)
    if SEGMENTS:
        place = segments + (image * chunks + chunk) * 2
        tl.store(place, first)
        tl.store(place + 1, number)
    if OUTSIDES:
        append(inside.to(tl.int32) - chosen, image * size + o, outside_at, counts + OUTSIDE)


@triton.jit
def dilate_chunk(mask, i, image, height, width, out_height, out_width, stride, dilated_at, counts):
    """List the chunk's positions i of an image's map that a 3x3 convolution of this stride reads for the mask."""
    inside = i < height * width
    y = i // width
    x = i % width
    chosen = tl.zeros(i.shape, tl.int32)
    for tap in tl.static_range(9):
        row = y + tap // 3 - 1
        column = x + tap % 3 - 1
        near = inside & (row >= 0) & (column >= 0) & (row % stride == 0) & (column % stride == 0)
        near = near & (row // stride < out_height) & (column // stride < out_width)
        found = tl.load(mask + (image * out_height + row // stride) * out_width + column // stride, mask=near, other=0)
        chosen = tl.maximum(chosen, (found != 0).to(tl.int32))
    append(chosen, image * height * width + i, dilated_at, counts + IN_DILATED)


@kernel
def context_sums(products, sums, size, panel, column, part, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of the linear layer's product over parts of an image, [images, PARTS]: for maps too large for one."""
    image = tl.program_id(0) // PARTS
    start = tl.program_id(0) % PARTS * part
    total = tl.zeros((BLOCK,), tl.float32)
    for i0 in range(start, tl.minimum(start + part, size), BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        row = (image * size + i).to(tl.int64)
        total += tl.load(products + row * panel + column + 9, mask=i < tl.minimum(start + part, size), other=0.0)
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))


@kernel
def decide(products, sums, offset, logits, mask, at, outside_at, dilated_at, counts, segments, height, width,
           out_height, out_width, stride, panel, column, chunks, d_height, d_width, d_stride, PARTS: tl.constexpr,
           LIST: tl.constexpr, OUTSIDES: tl.constexpr, DILATE: tl.constexpr, SEGMENTS: tl.constexpr,
           BLOCK: tl.constexpr):
    """A unit's logits and mask [images, out_height, out_width].

    Args:
        products: float32 [images * height * width, panel], the unit's ten columns from `column` on.
        sums: of the last of them, [images, PARTS]; not read if PARTS is 0: then one program an image sums up itself.
        offset: float32 [1], the unit's folded bias.
        LIST: whether to list too; then a program has a whole image, else a chunk of one.
        d_height, d_width, d_stride: the map on which the mask is dilated, if DILATE.
    """
    size = height * width
    out_size = out_height * out_width
    image = tl.program_id(0) if LIST else tl.program_id(0) // chunks
    first_chunk = 0 if LIST else tl.program_id(0) % chunks
    last_chunk = chunks if LIST else first_chunk + 1
    if PARTS == 0:
        summed = tl.zeros((BLOCK,), tl.float32)
        for i0 in range(0, size, BLOCK):
            i = i0 + tl.arange(0, BLOCK)
            row = (image * size + i).to(tl.int64)
            summed += tl.load(products + row * panel + column + 9, mask=i < size, other=0.0)
        total = tl.sum(summed, 0)
    else:
        total = tl.sum(tl.load(sums + image * PARTS + tl.arange(0, PARTS)), 0)
    context = total / size + tl.load(offset)
    for chunk in range(first_chunk, last_chunk):
        o = chunk * BLOCK + tl.arange(0, BLOCK)
        inside = o < out_size
        y = o // out_width * stride
        x = o % out_width * stride
        logit = tl.zeros((BLOCK,), tl.float32) + context
        for tap in tl.static_range(9):
            row = y + tap // 3 - 1
            place = x + tap % 3 - 1
            near = inside & (row >= 0) & (row < height) & (place >= 0) & (place < width)
            at_row = (image * size + row * width + place).to(tl.int64)
            logit += tl.load(products + at_row * panel + column + tap, mask=near, other=0.0)
        chosen = (inside & (logit >= 0)).to(tl.int32)
        tl.store(logits + image * out_size + o, logit, mask=inside)
        tl.store(mask + image * out_size + o, chosen.to(tl.uint8), mask=inside)
        if LIST:
            list_chunk(chosen, o, inside, image, chunk, chunks, out_size, at, outside_at, counts, segments, OUTSIDES,
                       SEGMENTS)
    if LIST and DILATE:
        tl.debug_barrier()  # the program reads what all of it has written
        for i0 in range(0, d_height * d_width, BLOCK):
            dilate_chunk(mask, i0 + tl.arange(0, BLOCK), image, d_height, d_width, out_height, out_width, d_stride,
                         dilated_at, counts)


@kernel
def list_mask(mask, at, outside_at, dilated_at, counts, segments, out_height, out_width, chunks, programs, d_height,
              d_width, d_stride, OUTSIDES: tl.constexpr, DILATE: tl.constexpr, SEGMENTS: tl.constexpr,
              BLOCK: tl.constexpr):
    """The lists of a mask [images, out_height, out_width] of bytes; `programs` an image, a chunk each."""
    image = tl.program_id(0) // programs
    chunk = tl.program_id(0) % programs
    out_size = out_height * out_width
    o = chunk * BLOCK + tl.arange(0, BLOCK)
    if chunk < chunks:
        inside = o < out_size
        chosen = (tl.load(mask + image * out_size + o, mask=inside, other=0) != 0).to(tl.int32)
        list_chunk(chosen, o, inside, image, chunk, chunks, out_size, at, outside_at, counts, segments, OUTSIDES,
                   SEGMENTS)
    if DILATE:
        dilate_chunk(mask, o, image, d_height, d_width, out_height, out_width, d_stride, dilated_at, counts)
