"""The sparse kernels in PyTorch operators alone: for machines without a compiler, and to test against.

Rows are gathered by index, multiplied and added back. Slower than the native kernels (gathering nine neighbours
costs as much as it saves), and the same results.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdsa.method.exact import Ahead, Costs, best_within
from bdsa.sparse.packing import Packed, unpack_groups


def pad(out: Tensor, x: Tensor, padding: int) -> None:
    """See `operators.pad`."""
    out.copy_(F.pad(x, (0, 0, padding, padding, padding, padding)))


def take_in(out: Tensor, x: Tensor, padding: int, infinite: Tensor) -> None:
    """See `operators.take_in`."""
    pad(out, x, padding)
    if not torch.isfinite(x).all():
        infinite.fill_(1)


def convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution`."""
    matrix = Packed(weight, bias).plain()                      # [kh, kw * C, out]
    channels = x.shape[3]
    kernel = matrix.reshape(len(matrix), -1, channels, len(bias)).permute(3, 2, 0, 1)
    made = F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, stride).permute(0, 2, 3, 1)
    out.copy_({"none": lambda t: t, "relu": F.relu, "gelu": F.gelu}[activation](made))


def convolution_pool(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
    """See `operators.convolution_pool`."""
    inner = x.new_empty(len(x), *Packed(weight, bias).output_size(x, stride), len(bias))
    convolution(inner, x, weight, bias, stride, activation)
    out.copy_(F.max_pool2d(inner.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1))


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """See `operators.layer_norm`."""
    x.copy_(F.layer_norm(x, x.shape[-1:], weight, bias, eps))


def mean(out: Tensor, x: Tensor) -> None:
    """See `operators.mean`."""
    out.copy_(x.mean(dim=(1, 2), keepdim=True))


def subsample(out: Tensor, x: Tensor, mask: Tensor, stride: int, before: int) -> None:
    """See `operators.subsample`."""
    taken = x[:, ::stride, ::stride]
    identity = F.pad(taken, (before, out.shape[3] - before - taken.shape[3]))
    out.copy_(torch.where(mask[..., None], identity, identity.relu()))


def average_pool(out: Tensor, x: Tensor, kernel: int, stride: int) -> None:
    """See `operators.average_pool`."""
    made = F.avg_pool2d(x.permute(0, 3, 1, 2), kernel, stride, ceil_mode=True, count_include_pad=False)
    out.copy_(made.permute(0, 2, 3, 1))


def products(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """See `operators.products`."""
    out.copy_(torch.einsum("nc,pck->pnk", x.reshape(-1, x.shape[3]), weight[:, 0]))


def decide(logits: Tensor, mask: Tensor, products: Tensor, height: int, width: int, panel: int, column: int,
           offset: float, stride: int) -> None:
    """See `operators.decide`."""
    own = products[panel, :, column:column + 10].reshape(len(logits), height, width, 10)
    spread = F.pad(own[..., :9], (0, 0, 1, 1, 1, 1))
    total = own[..., 9].mean(dim=(1, 2), keepdim=True) + offset               # [B, 1, 1]
    for tap in range(9):
        row, left = tap // 3, tap % 3
        total = total + spread[:, row:row + height:stride, left:left + width:stride, tap]
    logits.copy_(total)
    torch.ge(total, 0, out=mask)


def unit(logits: Tensor, mask: Tensor, x: Tensor, taps: Tensor, context: Tensor, offset: float, stride: int) -> None:
    """See `operators.unit`."""
    kernel = taps.T.reshape(1, -1, 3, 3)
    total = F.conv2d(x.permute(0, 3, 1, 2), kernel, None, stride, 1)[:, 0] \
        + (x.mean(dim=(1, 2)) @ context)[:, None, None] + offset
    logits.copy_(total)
    torch.ge(total, 0, out=mask)


def exact(mask: Tensor, left: Tensor, logits: Tensor, macs: int, dilated_macs: int, height: int, width: int,
          stride: int, reach: int, offsets: Tensor, ahead: Tensor, start: float, scale: float, moved: float) -> None:
    """See `operators.exact`."""
    if start >= 0:
        left.fill_(start)
    found, rest = best_within(logits[:, None], left, Costs(macs, dilated_macs, (height, width), stride, reach),
                              Ahead(offsets, ahead, scale, moved))
    mask.copy_(found[:, 0])
    left.copy_(rest)


def basic(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool, w1: Tensor, b1: Tensor,
          w2: Tensor, b2: Tensor, projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
          projected_stride: int, everywhere: bool, board: Tensor | None, board_bias: Tensor | None,
          products: Tensor | None, columns: int) -> None:
    """See `operators.basic`."""
    at_m = mask.nonzero()
    at_d = at_m if submanifold else dilated(mask, 1, tuple(mask.shape[1:])).nonzero()
    hidden = (out.new_zeros if submanifold else out.new_empty)(*out.shape[:3], len(b1))
    hidden[at_d.unbind(1)] = F.relu(_windows(x, at_d, stride, Packed(w1, b1)))
    _project(out, projected, projection, projection_bias, projected_stride, mask)
    _add(out, at_m, _windows(hidden, at_m, 1, Packed(w2, b2)))
    _look_again(out, at_m, everywhere, board, products, columns)
    rows.copy_(torch.tensor([0 if submanifold else len(at_d), len(at_m)]))


def bottleneck(out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool, w1: Tensor,
               b1: Tensor, w2: Tensor, b2: Tensor, group: int, w3: Tensor, b3: Tensor, projected: Tensor | None,
               projection: Tensor | None, projection_bias: Tensor | None, projected_stride: int, everywhere: bool,
               board: Tensor | None, board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.bottleneck`."""
    second = Packed(unpack_groups(w2, len(b2), group), b2) if group else Packed(w2, b2)
    at_m = mask.nonzero()
    at_d = at_m if submanifold else dilated(mask, stride, tuple(x.shape[1:3])).nonzero()
    hidden = (x.new_zeros if submanifold else x.new_empty)(*x.shape[:3], len(b1))
    hidden[at_d.unbind(1)] = F.relu(x[at_d.unbind(1)] @ Packed(w1, b1).plain()[0] + b1)
    narrow = F.relu(_windows(hidden, at_m, stride, second))
    _project(out, projected, projection, projection_bias, projected_stride, mask)
    _add(out, at_m, narrow @ Packed(w3, b3).plain()[0] + b3)
    _look_again(out, at_m, everywhere, board, products, columns)
    rows.copy_(torch.tensor([0 if submanifold else len(at_d), len(at_m)]))


def convnext(x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float, w1: Tensor, b1: Tensor,
             w2: Tensor, b2: Tensor, response: Tensor | None, response_eps: float, board: Tensor | None,
             board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
    """See `operators.convnext`."""
    channels, side = x.shape[3], round(len(taps) ** 0.5)
    at_m = mask.nonzero()
    kernel = taps[:, :channels].T.reshape(channels, 1, side, side)
    spatial = F.conv2d(x.permute(0, 3, 1, 2), kernel, taps_bias[:channels], 1, side // 2, groups=channels)
    active = F.layer_norm(spatial.permute(0, 2, 3, 1)[at_m.unbind(1)], (channels,), eps=eps)
    hidden = F.gelu(active @ Packed(w1, b1).plain()[0] + b1)
    if response is not None:
        size = hidden.new_zeros(len(x), len(b1)).index_add_(0, at_m[:, 0], hidden.square()).sqrt()  # [B, hidden]
        relative = size / (size.mean(dim=1, keepdim=True) + response_eps)
        hidden = hidden * (1 + response * relative[at_m[:, 0]])
    x.index_put_(at_m.unbind(1), hidden @ Packed(w2, b2).plain()[0] + b2, accumulate=True)
    _look_again(x, at_m, False, board, products, columns)
    rows.copy_(torch.tensor([0, len(at_m)]))


def dilated(mask: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """D(m): bool [B, h, w] on the stride grid of a map of `size`, dilated 3x3 -> bool [B, *size]."""
    grid = torch.zeros(len(mask), 1, *size, device=mask.device)
    grid[:, 0, ::stride, ::stride] = mask.float()
    return F.max_pool2d(grid, 3, 1, 1)[:, 0] > 0


def _windows(x: Tensor, positions: Tensor, stride: int, matrix: Packed) -> Tensor:
    """A 3x3 convolution of padding 1 at [n, 3] positions (image, row, column), a tap at a time -> [n, out]."""
    image, row, column = positions.unbind(1)
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    total = matrix.bias.expand(len(positions), -1)
    for tap, weight in enumerate(matrix.plain()):
        total = total + padded[image, row * stride + tap // 3, column * stride + tap % 3] @ weight
    return total


def _project(out: Tensor, x: Tensor | None, weight: Tensor | None, bias: Tensor | None, stride: int,
             mask: Tensor) -> None:
    """A 1x1 convolution of x; its bias and a relu where the mask is not: at m they are in what will be added."""
    if x is not None:
        made = x[:, ::stride, ::stride] @ Packed(weight, bias).plain()[0]
        out.copy_(torch.where(mask[..., None], made, F.relu(made + bias)))


def _add(out: Tensor, positions: Tensor, residual: Tensor) -> None:
    """relu(out + residual) at the positions."""
    index = positions.unbind(1)
    out[index] = F.relu(out[index] + residual)


def _look_again(x: Tensor, positions: Tensor, everywhere: bool, board: Tensor | None, products: Tensor | None,
                columns: int) -> None:
    """Bring the products of the positions that a block changed up to date."""
    if board is None:
        return
    rows, panels = x.reshape(-1, x.shape[3]), -(-columns // board.shape[3])
    if everywhere:
        products[:panels] = torch.einsum("nc,pck->pnk", rows, board[:panels, 0])
        return
    image, row, column = positions.unbind(1)
    index = (image * x.shape[1] + row) * x.shape[2] + column
    products[:panels, index] = torch.einsum("nc,pck->pnk", rows[index], board[:panels, 0])

