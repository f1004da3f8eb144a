"""How each block runs sparsely at one budget: its weights folded and packed, and which operator takes them.

What is folded is a copy; the network's weights are never touched. Maps between blocks are [B, H, W, C].
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.layers import GlobalResponseNormMlp
from torch import Tensor, nn

from bdsa.method.norms import NORMS, Blend, BudgetNorm
from bdsa.models.blocks import AdaptiveBasicBlock, AdaptiveBlock, AdaptiveBottleneck, AdaptiveConvNeXtBlock
from bdsa.models.cifar_resnet import SubsamplePad
from bdsa.models.torchvision_networks import (
    AdaptiveTorchvisionBasicBlock,
    AdaptiveTorchvisionBottleneck,
    AdaptiveTorchvisionConvNeXtBlock,
)
from bdsa.sparse import operators
from bdsa.sparse.packing import Form, Packed, budget_norm, folded, pack, pack_layer, plain_convolution, taps_first
from bdsa.sparse.recording import cannot_record
from bdsa.sparse.scores import NOTHING, Following
from bdsa.sparse.workspace import Workspace


class Shortcut:
    """The identity branch of a ResNet block that is not the input itself.

    Attributes:
        before: what comes before the projection, by torch.
        matrix, stride, channels: the projection, which the block computes, and what it reads; None where there is none.
    """

    def __init__(self, block: AdaptiveBlock, budget: str | Blend, form: Form) -> None:
        self.budget = budget
        self.workspace = Workspace()
        self.before, projection = self.layers(block)
        self.projection: tuple[nn.Conv2d, object] | None = None  # with what it is normalised by
        self.matrix: Packed | None = None
        self.stride, self.channels = 1, 0
        if projection is not None:
            convolution, norm = projection
            self.projection = convolution, budget_norm(norm, budget)
            self.stride, self.channels = convolution.stride[0], convolution.in_channels
            weight, bias = folded(*self.projection)
            self.matrix = pack(taps_first(weight), bias, form)

    @staticmethod
    def layers(block: AdaptiveBlock) -> tuple[list[nn.Module], tuple[nn.Conv2d, nn.Module] | None]:
        """What torch computes, and the projection behind it with its norm, if there is one that the kernels know."""
        layers = list(block.downsample) if isinstance(block.downsample, nn.Sequential) else [block.downsample]
        layers = [layer for layer in layers if not isinstance(layer, nn.Identity)]
        known = len(layers) >= 2 and type(layers[-1]) in NORMS.values()
        if known and isinstance(layers[-2], nn.Conv2d) and plain_convolution(layers[-2], 1):
            return layers[:-2], (layers[-2], layers[-1])
        return layers, None

    def projected(self, x: Tensor) -> Tensor:
        """What is projected, [B, H', W', C], of the block's input x [B, H, W, C]."""
        if not self.before:
            return x
        if len(self.before) == 1 and _known_pool(self.before[0]):
            kernel, stride = self.before[0].kernel_size, self.before[0].stride
            out = self.workspace.room("pooled", (len(x), *(-(-size // stride) for size in x.shape[1:3]), x.shape[3]), x)
            operators.average_pool(out, x, kernel, stride)
            return out
        cannot_record()
        y = x.permute(0, 3, 1, 2)
        for layer in self.before:
            y = layer(y.float(), self.budget) if isinstance(layer, BudgetNorm) else layer(y.float())
        return y.to(x.dtype).permute(0, 2, 3, 1).contiguous()

    def identity(self, x: Tensor, mask: Tensor, workspace: Workspace, name: str) -> Tensor:
        """Where the block's output goes, [B, h, w, C'], not in x's memory.

        Without a projection it holds the identity, activated where the mask is not; with one the block will fill it.
        """
        if self.matrix is not None:
            return workspace.room(name, (*mask.shape, self.matrix.columns), x)
        if len(self.before) == 1 and type(self.before[0]) is SubsamplePad:
            way = self.before[0]
            check_size(x, way.stride, mask.shape[1:])
            out = workspace.room(name, (*mask.shape, x.shape[3] + sum(way.padding)), x)
            operators.subsample(out, x, mask, way.stride, way.padding[-2])
            return out
        cannot_record()
        y = self.projected(x)
        return torch.where(mask[..., None], y, y.relu())


def check_size(x: Tensor, stride: int, grid: Sequence[int]) -> None:
    """Check that every stride-th position of a map [B, H, W, C] is one of a grid, (h, w).

    Raises:
        ValueError: for another number of them: a shortcut of another size than its block's output.
    """
    size = tuple(-(-side // stride) for side in x.shape[1:3])
    if size != tuple(grid):
        raise ValueError(f"a block's shortcut gives a map of {size[0]}x{size[1]}, and its output is "
                         f"{grid[0]}x{grid[1]}")


def check_projected(shortcut: Any, x: Tensor, grid: Sequence[int]) -> Tensor:
    """What is projected of a block's input x, if the projection can take it and gives the block's output grid (h, w).

    Raises:
        ValueError: if not.
    """
    found = shortcut.projected(x)
    check_size(found, shortcut.stride, grid)
    if found.shape[3] != shortcut.channels:
        raise ValueError(f"a block's projection reads {shortcut.channels} channels, and its map has {found.shape[3]}")
    return found


def _known_pool(layer: nn.Module) -> bool:
    """Average pooling of windows side by side, with those that the border cuts off: timm's, before a projection."""
    if type(layer) is not nn.AvgPool2d or not isinstance(layer.kernel_size, int) or layer.kernel_size != layer.stride:
        return False
    return layer.padding == 0 and layer.ceil_mode and not layer.count_include_pad and layer.divisor_override is None


class BasicPlan:
    """3x3 with the stride at D(m), or at m in a submanifold block, 3x3 at m.

    Attributes:
        columns: channels of the block's output.
    """

    def __init__(self, block: AdaptiveBasicBlock, budget: str | Blend, form: Form) -> None:
        self.first = pack_layer(block.conv1, budget_norm(block.bn1, budget), form)
        self.second = pack_layer(block.conv2, budget_norm(block.bn2, budget), form)
        self.shortcut = None if block.downsample is None else Shortcut(block, budget, form)
        self.second = _with_shortcut(self.second, self.shortcut)
        self.stride, self.submanifold, self.columns = block.conv1.stride[0], block.submanifold, self.second.columns

    def __call__(self, x: Tensor, mask: Tensor, identity: Tensor, rows: Tensor, following: Following | None) -> None:
        """Add the residual at the masked positions to `identity`, and activate.

        Args:
            x: [B, H, W, C], which `identity` may be.
            mask: bool [B, h, w].
            identity: [B, h, w, C'], from the shortcut or x; it becomes the block's output.
            rows: int64 [2], becomes the rows computed at D(m), if there are such layers, and at m.
            following: the products that follow what changes.
        """
        operators.basic(identity, x, mask, rows, self.stride, self.submanifold, self.first.weight, self.first.bias,
                        self.second.weight, self.second.bias, *_projection(self.shortcut, x, mask),
                        *board_of(following))


class BottleneckPlan:
    """1x1 at D(m) of the input, or at m in a submanifold block, 3x3 with the stride and 1x1 at m."""

    def __init__(self, block: AdaptiveBottleneck, budget: str | Blend, form: Form) -> None:
        layers = ((block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3))
        self.matrices = [pack_layer(layer, budget_norm(norm, budget), form) for layer, norm in layers]
        self.group = block.conv2.in_channels // block.conv2.groups if block.conv2.groups > 1 else 0
        self.shortcut = None if block.downsample is None else Shortcut(block, budget, form)
        self.matrices[-1] = _with_shortcut(self.matrices[-1], self.shortcut)
        self.stride, self.submanifold = block.conv2.stride[0], block.submanifold
        self.columns = self.matrices[-1].columns

    def __call__(self, x: Tensor, mask: Tensor, identity: Tensor, rows: Tensor, following: Following | None) -> None:
        """See `BasicPlan`."""
        first, second, third = ((m.weight, m.bias) for m in self.matrices)
        operators.bottleneck(identity, x, mask, rows, self.stride, self.submanifold, *first, *second, self.group,
                             *third, *_projection(self.shortcut, x, mask), *board_of(following))


class ConvNeXtPlan:
    """Depthwise 7x7, norm, 1x1, GELU, (v2: response norm), 1x1 and layer scale at m; what can be folded is."""

    shortcut = None

    def __init__(self, block: AdaptiveConvNeXtBlock, budget: str | Blend, form: Form) -> None:
        spatial, norm = block.conv_dw, budget_norm(block.norm, budget)
        channels, side = spatial.in_channels, spatial.kernel_size[0]
        padded = -(-channels // 16) * 16
        self.taps = spatial.weight.detach().new_zeros(side * side, padded, dtype=torch.float32)
        self.taps[:, :channels] = spatial.weight.detach().float().reshape(channels, -1).T
        self.taps_bias = self.taps.new_zeros(padded)
        if spatial.bias is not None:
            self.taps_bias[:channels] = spatial.bias.detach().float()
        self.eps = norm.eps
        (w1, b1), (w2, b2) = folded(block.mlp.fc1), folded(block.mlp.fc2)
        if norm.weight is not None:
            if norm.bias is not None:
                b1 = b1 + w1[:, :, 0, 0] @ norm.bias.detach().double()
            w1 = w1 * norm.weight.detach().double()[None, :, None, None]
        self.response, self.response_eps = None, 0.0
        if isinstance(block.mlp, GlobalResponseNormMlp):
            b2 = b2 + w2[:, :, 0, 0] @ block.mlp.grn.bias.detach().double()
            self.response, self.response_eps = block.mlp.grn.weight.detach().float().contiguous(), block.mlp.grn.eps
        if block.gamma is not None:
            scale = block.gamma.detach().double()
            w2, b2 = w2 * scale[:, None, None, None], b2 * scale
        self.first, self.second = self.packed([(w1, b1), (w2, b2)], form)
        self.columns = self.second.columns

    def packed(self, layers: list[tuple[Tensor, Tensor]], form: Form) -> list[Packed]:
        """The two pointwise layers, each a weight [out, in, 1, 1] and a bias."""
        return [pack(taps_first(weight), bias, form) for weight, bias in layers]

    def __call__(self, x: Tensor, mask: Tensor, identity: Tensor, rows: Tensor, following: Following | None) -> None:
        """See `BasicPlan`; `identity` is x."""
        operators.convnext(x, mask, rows, self.taps, self.taps_bias, self.eps, self.first.weight, self.first.bias,
                           self.second.weight, self.second.bias, self.response, self.response_eps, *board_of(following))


Plan = BasicPlan | BottleneckPlan | ConvNeXtPlan
KINDS = {AdaptiveBasicBlock: BasicPlan, AdaptiveBottleneck: BottleneckPlan, AdaptiveConvNeXtBlock: ConvNeXtPlan,
         AdaptiveTorchvisionBasicBlock: BasicPlan, AdaptiveTorchvisionBottleneck: BottleneckPlan,
         AdaptiveTorchvisionConvNeXtBlock: ConvNeXtPlan}


def _with_shortcut(last: Packed, shortcut: Shortcut | None) -> Packed:
    """A block's last layer with the bias of its projection, whose product joins it at the masked positions."""
    return last if shortcut is None or shortcut.matrix is None else replace(last, bias=last.bias + shortcut.matrix.bias)


def _projection(shortcut: Shortcut | None, x: Tensor, mask: Tensor) -> tuple:
    """The shortcut of a block with input x and a mask [B, h, w], as the block operators take it."""
    if shortcut is None or shortcut.matrix is None:
        return None, None, None, 1, shortcut is not None
    projected = check_projected(shortcut, x, mask.shape[1:])
    return projected, shortcut.matrix.weight, shortcut.matrix.bias, shortcut.stride, True


def board_of(following: Following | None) -> tuple:
    """The board of a block as the block operators take it."""
    return NOTHING if following is None else following.arguments
