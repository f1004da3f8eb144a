"""A bottleneck's 3x3 and last 1x1 convolution with shortcut and ReLU in one kernel: what lies between stays on chip."""
import triton.language as tl

from bdsa.sparse.gpu.launch import kernel
from bdsa.sparse.gpu.products import RELU, activated, add_product, add_windows, finish, strided


@kernel
def windows_product(x, at, counts, w2, b2, w3, b3, out, height, width, out_height, out_width, stride, projected, wp,
                    p_height, p_width, p_stride, C: tl.constexpr, N: tl.constexpr, KP: tl.constexpr,
                    COUNT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                    PRECISION: tl.constexpr):
    """out = relu(out + relu(3x3(x)) @ w3 + b3), or with a projection in the place of the first `out`.

    For C of at most 128, a power of two and a multiple of BK; N a multiple of BN; the other names are those of
    `products.windows`.
    """
    n = tl.load(counts + COUNT)
    middle = tl.arange(0, C)
    for tile in range(tl.program_id(0), tl.cdiv(n, BM), tl.num_programs(0)):
        r = tile * BM + tl.arange(0, BM)
        live = r < n
        position = tl.load(at + r, mask=live, other=0)
        acc = tl.zeros((BM, C), tl.float32)
        acc = add_windows(acc, x, position, live, w2, middle, 0, height, width, out_height, out_width, stride, C, C, C,
                          BK, True, PRECISION)
        narrow = activated(acc + tl.load(b2 + middle)[None, :], RELU).to(x.dtype.element_ty)
        there = strided(position, p_height, p_width, out_height, out_width, p_stride) if KP > 0 else position
        for start in range(0, N, BN):
            cols = start + tl.arange(0, BN)
            last = tl.dot(narrow, tl.load(w3 + middle[:, None] * N + cols[None, :]), input_precision=PRECISION)
            if KP > 0:
                last = add_product(last, projected, there, live, wp, cols, KP, N, BK, KP % BK == 0, PRECISION)
            finish(last, b3, out, position, live, cols, N, N, KP == 0, RELU, True)
