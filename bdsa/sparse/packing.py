"""Weights in the form that the sparse kernels read: norms folded in, columns in panels. The network's own stay."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdsa.method.norms import BatchStatistics, Blend
from bdsa.sparse.pages import placed


@dataclass(frozen=True)
class Form:
    """How matrices are packed.

    Attributes:
        width: columns of a panel; 0 for one panel as wide as the matrix.
        dtype: of the matrices and of the maps that they are multiplied with.
        ranges: of the inputs of layers whose products are in int8, from the lowest to the highest (`quantised`).
    """
    width: int = 0
    dtype: torch.dtype = torch.float32
    ranges: Mapping[nn.Module, tuple[float, float]] | None = None


NARROW = 64  # channels up to which the three taps of a kernel's row are one in bfloat16, which pads each to 32
STEP = 32  # of the depth that the kernels of bfloat16 multiply at once


@dataclass(frozen=True)
class Packed:
    """A matrix for products of rows.

    Attributes:
        weight: float32 [panels, taps, depth, width], columns padded with zeros to whole panels; bfloat16 in pairs of
            rows, [panels, taps, depth / 2, width, 2], its depth padded too.
        bias: float32 [columns].
    """
    weight: Tensor
    bias: Tensor

    @property
    def columns(self) -> int:
        """Columns without the padding."""
        return len(self.bias)

    def plain(self) -> Tensor:
        """The matrix as [taps, depth, columns]; of a grouped convolution see `unpack_groups`."""
        panels, taps, depth, width = self.weight.shape
        return self.weight.permute(1, 2, 0, 3).reshape(taps, depth, panels * width)[..., :self.columns]

    def output_size(self, x: Tensor, stride: int) -> tuple[int, int]:
        """Height and width of a convolution of x [B, H, W, C] without padding; rows of its square kernel are the taps.

        Raises:
            ValueError: for a map that is smaller than the kernel.
        """
        taps = self.weight.shape[1]
        size = (x.shape[1] - taps) // stride + 1, (x.shape[2] - taps) // stride + 1
        if min(size) < 1:
            raise ValueError(f"the image is too small for this network: a {taps}x{taps} kernel meets a "
                             f"map of {x.shape[1]}x{x.shape[2]}")
        return size


def pack(matrix: Tensor, bias: Tensor, form: Form) -> Packed:
    """Pack a matrix [taps, depth, columns] with its bias [columns]."""
    taps, depth, columns = matrix.shape
    width = form.width or columns
    panels = -(-columns // width)
    padded = matrix.new_zeros(taps, depth, panels * width, dtype=torch.float32)
    padded[..., :columns] = matrix
    weight = padded.view(taps, depth, panels, width).permute(2, 0, 1, 3).contiguous()
    return Packed(placed(_in_pairs(weight, form)), bias.float().contiguous())


def _in_pairs(weight: Tensor, form: Form) -> Tensor:
    """[panels, taps, depth, width] as a form wants it: see `Packed`."""
    if form.dtype == torch.float32:
        return weight
    panels, taps, depth, width = weight.shape
    weight = F.pad(weight, (0, 0, 0, -depth % STEP))
    return weight.view(panels, taps, -1, 2, width).transpose(3, 4).to(form.dtype).contiguous()


def pack_groups(weight: Tensor, bias: Tensor, group: int, form: Form) -> Packed:
    """Pack a grouped convolution: of every panel only the channels that its columns read.

    Those of panel p begin at `first_channel(p, ...)`; products of a column with channels of another group are zeros.

    Args:
        weight: [out, in / groups, kh, kw].
        bias: [out].
        group: channels of a group, in / groups = out / groups.
    """
    channels = len(weight)
    width = form.width or channels
    taps = weight.shape[2] * weight.shape[3]
    whole = weight.new_zeros(taps, channels, channels)                         # [taps, in, out], block diagonal
    for start in range(0, channels, group):
        whole[:, start:start + group, start:start + group] = taps_first(weight[start:start + group])
    panels, depth = -(-channels // width), group_depth(channels, group, width)
    packed = whole.new_zeros(panels, taps, depth, width, dtype=torch.float32)
    for p in range(panels):
        first, columns = first_channel(p, channels, group, width, depth), slice(p * width, (p + 1) * width)
        part = whole[:, first:first + depth, columns]
        packed[p, :, :, :part.shape[2]] = part
    return Packed(placed(_in_pairs(packed, form)), bias.float().contiguous())


def unpack_groups(packed: Tensor, channels: int, group: int) -> Tensor:
    """What `pack_groups` packed, as one panel with all channels [1, taps, in, out]."""
    panels, taps, depth, width = packed.shape
    whole = packed.new_zeros(1, taps, channels, panels * width)
    for p in range(panels):
        first = first_channel(p, channels, group, width, depth)
        whole[0, :, first:first + depth, p * width:(p + 1) * width] = packed[p]
    return whole[..., :channels]


def group_depth(channels: int, group: int, width: int) -> int:
    """The most channels that the columns of one panel read in a grouped convolution of as many channels out as in."""
    starts = range(0, channels, width)
    return max((min(s + width, channels) - 1) // group * group + group - s // group * group for s in starts)


def first_channel(panel: int, channels: int, group: int, width: int, depth: int) -> int:
    """The first channel that a panel's columns read (`product.h` says the same)."""
    return min(panel * width // group * group, channels - depth)


def folded(layer: nn.Conv2d | nn.Linear, norm: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """A layer's weight [out, in, kh, kw] and bias [out] with the batch norm behind it folded in, in float64.

    Args:
        layer: a convolution, or a linear layer (then kh = kw = 1).
        norm: nn.BatchNorm2d, `BoundStatistics`, or None.
    """
    weight = layer.weight.detach().double()
    weight = weight if weight.dim() == 4 else weight[:, :, None, None]
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    if norm is None:
        return weight, bias
    scale, shift = _scale_and_shift(norm)
    return weight * scale[:, None, None, None], bias * scale + shift


@dataclass(frozen=True)
class BoundStatistics:
    """One budget's batch statistics together with the weight and bias that all budgets share."""
    running_mean: Tensor
    running_var: Tensor
    eps: float
    weight: Tensor | None
    bias: Tensor | None


def budget_norm(norm: nn.Module, budget: str | Blend) -> nn.Module | BoundStatistics:
    """What a `BudgetNorm` normalises with at a budget, or with a blend of two."""
    if isinstance(budget, Blend):
        return _blended(budget_norm(norm, budget.first), budget_norm(norm, budget.second), budget.share)
    own = norm.per_budget[budget] if budget in getattr(norm, "per_budget", {}) else norm
    if isinstance(own, BatchStatistics):
        return BoundStatistics(own.running_mean, own.running_var, own.eps, norm.weight, norm.bias)
    return own


def _blended(first: nn.Module | BoundStatistics, second: nn.Module | BoundStatistics, share: float
             ) -> nn.Module | BoundStatistics:
    """A norm of (1 - share) of one norm's output and share of another's, which is of the same layer."""
    if first is second or first.weight is None and not hasattr(first, "running_var"):
        return first
    (w1, b1), (w2, b2) = map(_scale_and_shift, (first, second))
    weight, bias = torch.lerp(w1, w2, share), torch.lerp(b1, b2, share)
    return BoundStatistics(torch.zeros_like(weight), torch.ones_like(weight) - first.eps, first.eps, weight, bias)


def _scale_and_shift(norm: nn.Module | BoundStatistics) -> tuple[Tensor, Tensor]:
    """What a norm does to what it has normalised, or a batch norm in evaluation mode to its input; float64 [C]."""
    weight, bias = norm.weight, norm.bias
    if not hasattr(norm, "running_var"):
        return weight.detach().double(), torch.zeros_like(weight).double() if bias is None else bias.detach().double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if weight is None or bias is None:
        return scale, shift
    return scale * weight.detach().double(), shift * weight.detach().double() + bias.detach().double()


def taps_first(weight: Tensor) -> Tensor:
    """[out, in, kh, kw] -> [kh * kw, in, out]: a tap a position of the kernel."""
    out, depth, height, width = weight.shape
    return weight.permute(2, 3, 1, 0).reshape(height * width, depth, out)


def rows_first(weight: Tensor) -> Tensor:
    """[out, in, kh, kw] -> [kh, kw * in, out]: a tap a row of the kernel, which lies side by side in memory."""
    out, depth, height, width = weight.shape
    return weight.permute(2, 3, 1, 0).reshape(height, width * depth, out)


def plain_convolution(layer: nn.Module, kernel: int, grouped: bool = False) -> bool:
    """Whether a layer is a convolution that the kernels know: undilated, with zeros around the map that keep its size.

    Args:
        layer: any.
        kernel: its height and width: odd.
        grouped: whether it may have groups, of as many channels in as out.
    """
    if type(layer) is not nn.Conv2d or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return False
    if layer.groups != 1 and not (grouped and layer.in_channels == layer.out_channels):
        return False
    if layer.weight.shape != (layer.out_channels, layer.in_channels // layer.groups, kernel, kernel):
        return False
    return layer.kernel_size == (kernel, kernel) and layer.padding == (kernel // 2,) * 2 \
        and layer.stride[0] == layer.stride[1]


def pack_layer(layer: nn.Conv2d, norm: nn.Module, form: Form) -> Packed:
    """A convolution and its batch norm, a tap a position of the kernel; of few channels in bfloat16, a row of it."""
    weight, bias = folded(layer, norm)
    if layer.groups > 1:
        return pack_groups(weight, bias, layer.in_channels // layer.groups, form)
    by_rows = form.dtype != torch.float32 and layer.in_channels <= NARROW
    return pack(rows_first(weight) if by_rows else taps_first(weight), bias, form)
