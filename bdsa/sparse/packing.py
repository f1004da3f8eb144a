"""Weights in the form that the sparse kernels read: norms folded in, columns in panels. The network's own stay."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bdsa.method.norms import BatchStatistics


@dataclass(frozen=True)
class Packed:
    """A matrix for products of rows.

    Attributes:
        weight: float32 [panels, taps, depth, width], columns padded with zeros to whole panels.
        bias: float32 [columns].
    """
    weight: Tensor
    bias: Tensor

    @property
    def columns(self) -> int:
        """Columns without the padding."""
        return len(self.bias)

    def plain(self) -> Tensor:
        """The matrix as [taps, depth, columns]."""
        panels, taps, depth, width = self.weight.shape
        return self.weight.permute(1, 2, 0, 3).reshape(taps, depth, panels * width)[..., :self.columns]

    def output_size(self, x: Tensor, stride: int) -> tuple[int, int]:
        """Height and width of a convolution of x [B, H, W, C] without padding, whose kernel rows are the taps."""
        _, taps, depth, _ = self.weight.shape
        return (x.shape[1] - taps) // stride + 1, (x.shape[2] - depth // x.shape[3]) // stride + 1


def pack(matrix: Tensor, bias: Tensor, width: int) -> Packed:
    """Pack a matrix.

    Args:
        matrix: [taps, depth, columns].
        bias: [columns].
        width: columns of a panel; 0 for one panel as wide as the matrix.
    """
    taps, depth, columns = matrix.shape
    width = width or columns
    panels = -(-columns // width)
    padded = matrix.new_zeros(taps, depth, panels * width, dtype=torch.float32)
    padded[..., :columns] = matrix
    weight = padded.view(taps, depth, panels, width).permute(2, 0, 1, 3).contiguous()
    return Packed(weight, bias.float().contiguous())


def folded(layer: nn.Conv2d | nn.Linear, norm: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """A layer's weight [out, in, kh, kw] and bias [out] with the batch norm behind it folded in, in float64.

    Args:
        layer: a convolution without groups, or a linear layer (then kh = kw = 1).
        norm: nn.BatchNorm2d, `BoundStatistics`, or None.
    """
    weight = layer.weight.detach().double()
    weight = weight if weight.dim() == 4 else weight[:, :, None, None]
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    if norm is None:
        return weight, bias
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.detach().double(), shift * norm.weight.detach().double()
        shift = shift + norm.bias.detach().double()
    return weight * scale[:, None, None, None], bias * scale + shift


@dataclass(frozen=True)
class BoundStatistics:
    """One budget's batch statistics together with the weight and bias that all budgets share."""
    running_mean: Tensor
    running_var: Tensor
    eps: float
    weight: Tensor | None
    bias: Tensor | None


def budget_norm(norm: nn.Module, budget: str) -> nn.Module | BoundStatistics:
    """What a `BudgetNorm` normalises with at a budget."""
    own = norm.per_budget[budget] if budget in getattr(norm, "per_budget", {}) else norm
    if isinstance(own, BatchStatistics):
        return BoundStatistics(own.running_mean, own.running_var, own.eps, norm.weight, norm.bias)
    return own


def taps_first(weight: Tensor) -> Tensor:
    """[out, in, kh, kw] -> [kh * kw, in, out]: a tap a position of the kernel."""
    out, depth, height, width = weight.shape
    return weight.permute(2, 3, 1, 0).reshape(height * width, depth, out)


def rows_first(weight: Tensor) -> Tensor:
    """[out, in, kh, kw] -> [kh, kw * in, out]: a tap a row of the kernel, which lies side by side in memory."""
    out, depth, height, width = weight.shape
    return weight.permute(2, 3, 1, 0).reshape(height, width * depth, out)
