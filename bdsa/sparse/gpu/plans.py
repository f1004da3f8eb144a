"""How each block runs on a GPU at one budget: its weights folded and laid out for the kernels, and which it takes.

The shapes, and what a block leaves out, are those of `bdsa.sparse.plans`; what is folded is a copy.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import GlobalResponseNormMlp
from torch import Tensor, nn

from bdsa.method.norms import Blend, BudgetNorm
from bdsa.models.blocks import AdaptiveBasicBlock, AdaptiveBlock, AdaptiveBottleneck, AdaptiveConvNeXtBlock
from bdsa.models.cifar_resnet import SubsamplePad
from bdsa.sparse import plans
from bdsa.sparse.gpu import operators
from bdsa.sparse.gpu.board import update
from bdsa.sparse.gpu.lists import Lists, Wanted
from bdsa.sparse.gpu.tiles import fused_tile, group_width, mlp_tile
from bdsa.sparse.packing import Form, Packed, budget_norm, pack_layer
from bdsa.sparse.planning import why_masked
from bdsa.sparse.scores import Following
from bdsa.sparse.workspace import Workspace

AT_D, AT_M, OUTSIDE = 0, 1, 2  # places in the counts


@dataclass(frozen=True)
class Matrix:
    """A layer for the kernels: weight [taps, depth, columns] in the maps' type, or [panels, ...]; bias float32."""
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, packed: Packed, dtype: torch.dtype) -> Matrix:
        """From a matrix of one panel, or of a grouped convolution's."""
        weight = packed.weight.to(dtype)
        return cls(weight[0] if len(weight) == 1 else weight, packed.bias)


class GpuShortcut:
    """The identity branch of a ResNet block that is not the input itself; see `plans.Shortcut`."""

    def __init__(self, block: AdaptiveBlock, budget: str | Blend, dtype: torch.dtype) -> None:
        found = plans.Shortcut(block, budget, Form())
        self.budget, self.stride, self.channels = budget, found.stride, found.channels
        self.matrix = None if found.matrix is None else Matrix.of(found.matrix, dtype)
        self.before: list[nn.Module] = [copy.deepcopy(layer).to(dtype).eval() for layer in found.before]

    def projected(self, x: Tensor) -> Tensor:
        """What is projected, [B, H', W', C], of the block's input x [B, H, W, C]."""
        y = x.permute(0, 3, 1, 2)
        for layer in self.before:
            y = layer(y, self.budget) if isinstance(layer, BudgetNorm) else layer(y)
        return y.permute(0, 2, 3, 1).contiguous()

    def identity(self, x: Tensor, mask: Tensor, workspace: Workspace, name: str) -> Tensor:
        """Where the block's output goes, [B, h, w, C']; with a projection the block fills it."""
        if self.matrix is not None:
            return x.new_empty(*mask.shape, len(self.matrix.bias))
        if len(self.before) == 1 and type(self.before[0]) is SubsamplePad:
            way = self.before[0]
            y = F.pad(x[:, ::way.stride, ::way.stride], way.padding[-2:])
        else:
            y = self.projected(x)
        return torch.where(mask[..., None], y, y.relu())


class Residual:
    """What the blocks of ResNets share.

    Attributes:
        shortcut: of a block whose identity is not its input.
        wanted: the lists that it needs.
        submanifold: whether its first layer runs at m, not at D(m).
        columns: channels of its output.
    """
    shortcut: GpuShortcut | None
    wanted: Wanted
    columns: int
    submanifold: bool

    def __call__(self, x: Tensor, lists: Lists, out: Tensor, following: Following | None) -> None:
        """Make `out` the block's output: it holds the identity, or a projection makes it.

        Args:
            x: [B, H, W, C], which `out` may be.
            lists: of the mask.
            out: [B, h, w, C'].
            following: the products that follow what changes.
        """
        shortcut = self.shortcut
        projected = None if shortcut is None or shortcut.matrix is None else \
            plans.check_projected(shortcut, x, lists.grid)
        joins = (None, None, 1) if projected is None else (projected, shortcut.matrix.weight, shortcut.stride)
        self.add(x, lists, out, joins)
        if projected is not None:
            matrix = shortcut.matrix
            operators.product_at(out, projected, lists.outside, lists.counts, OUTSIDE, matrix.weight, matrix.bias,
                                 len(matrix.bias), *lists.grid, "strided", shortcut.stride, True, False, "relu", None,
                                 None, 1)
        update(out, lists, shortcut is not None, following)

    def add(self, x: Tensor, lists: Lists, out: Tensor, joins: tuple) -> None:
        """out = relu(identity + residual) at m. joins: the projection's input, weight and stride."""
        raise NotImplementedError

    def opening(self, lists: Lists) -> tuple[Tensor | None, Tensor, int]:
        """Where the first layer runs: the list, all counts and which of them is its length."""
        return (lists.at, lists.counts, AT_M) if self.submanifold else (lists.dilated, lists.counts, AT_D)

    def hidden(self, x: Tensor, shape: torch.Size, first: Matrix) -> Tensor:
        """Where the first layer's rows go, [B, height, width, columns] for a map of a shape [B, height, width, ...]."""
        make = x.new_zeros if self.submanifold else x.new_empty
        return make((*shape[:3], len(first.bias)))

    def closing(self, last: Packed, dtype: torch.dtype) -> Matrix:
        """A block's last layer, with the bias of the projection that joins it at m."""
        matrix = Matrix.of(last, dtype)
        joining = None if self.shortcut is None else self.shortcut.matrix
        return matrix if joining is None else Matrix(matrix.weight, matrix.bias + joining.bias)


class BasicBlock(Residual):
    """3x3 with the stride at D(m), or at m in a submanifold block, 3x3 at m."""

    def __init__(self, block: AdaptiveBasicBlock, budget: str | Blend, dtype: torch.dtype) -> None:
        self.shortcut = None if block.downsample is None else GpuShortcut(block, budget, dtype)
        self.first = Matrix.of(pack_layer(block.conv1, budget_norm(block.bn1, budget), Form()), dtype)
        self.second = self.closing(pack_layer(block.conv2, budget_norm(block.bn2, budget), Form()), dtype)
        self.stride, self.submanifold, self.columns = block.conv1.stride[0], block.submanifold, len(self.second.bias)
        self.wanted = Wanted(dilated=int(not self.submanifold), at_output=True, outside=self.shortcut is not None)

    def add(self, x: Tensor, lists: Lists, out: Tensor, joins: tuple) -> None:
        """See `Residual`."""
        hidden = self.hidden(x, out.shape, self.first)
        nothing = (None, None, 1)
        operators.windows_at(hidden, x, *self.opening(lists), self.first.weight, self.first.bias,
                             *lists.grid, self.stride, True, False, 0, *nothing)
        operators.windows_at(out, hidden, lists.at, lists.counts, AT_M, self.second.weight, self.second.bias,
                             *lists.grid, 1, True, joins[0] is None, 0, *joins)


class Bottleneck(Residual):
    """1x1 at D(m) of the input, or at m in a submanifold block, then 3x3 with the stride and 1x1 at m.

    These two are one kernel where they are narrow.
    """

    def __init__(self, block: AdaptiveBottleneck, budget: str | Blend, dtype: torch.dtype) -> None:
        self.shortcut = None if block.downsample is None else GpuShortcut(block, budget, dtype)
        channels = block.conv2.in_channels
        self.group = channels // block.conv2.groups if block.conv2.groups > 1 else 0
        width = group_width(channels, self.group) if self.group else 0
        self.first = Matrix.of(pack_layer(block.conv1, budget_norm(block.bn1, budget), Form()), dtype)
        self.second = Matrix.of(pack_layer(block.conv2, budget_norm(block.bn2, budget), Form(width)), dtype)
        self.third = self.closing(pack_layer(block.conv3, budget_norm(block.bn3, budget), Form()), dtype)
        self.stride, self.submanifold, self.columns = block.conv2.stride[0], block.submanifold, len(self.third.bias)
        self.wanted = Wanted(dilated=0 if self.submanifold else self.stride, outside=self.shortcut is not None)

    def add(self, x: Tensor, lists: Lists, out: Tensor, joins: tuple) -> None:
        """See `Residual`."""
        counts, (first, second, third) = lists.counts, (self.first, self.second, self.third)
        hidden = self.hidden(x, x.shape, first)
        operators.product_at(hidden, x, *self.opening(lists), first.weight, first.bias, len(first.bias),
                             *x.shape[1:3], "listed", 1, True, False, "relu", None, None, 1)
        if not self.group and fused_tile(len(lists.at), len(second.bias), len(third.bias), x.dtype, x.device):
            operators.windows_product_at(out, hidden, lists.at, counts, second.weight, second.bias, third.weight,
                                         third.bias, *lists.grid, self.stride, *joins)
            return
        narrow = x.new_empty(len(lists.at), len(second.bias))
        operators.windows_at(narrow, hidden, lists.at, counts, AT_M, second.weight, second.bias, *lists.grid,
                             self.stride, False, False, self.group, None, None, 1)
        operators.product_at(out, narrow, lists.at, counts, AT_M, third.weight, third.bias, len(third.bias),
                             *lists.grid, "in order", 1, True, joins[0] is None, "relu", *joins)


class ConvNeXtBlock:
    """Depthwise 7x7 with its norm at m, then the MLP, in one kernel where it is narrow and without a response norm."""

    shortcut = None

    def __init__(self, block: AdaptiveConvNeXtBlock, budget: str | Blend, dtype: torch.dtype) -> None:
        plan = plans.ConvNeXtPlan(block, budget, Form())
        channels = block.conv_dw.in_channels
        self.taps, self.taps_bias = plan.taps[:, :channels].to(dtype).contiguous(), plan.taps_bias[:channels].clone()
        self.eps, self.response, self.response_eps = plan.eps, plan.response, plan.response_eps
        self.first, self.second = Matrix.of(plan.first, dtype), Matrix.of(plan.second, dtype)
        self.columns = plan.columns
        self.wanted = Wanted(segments=isinstance(block.mlp, GlobalResponseNormMlp))

    def __call__(self, x: Tensor, lists: Lists, out: Tensor, following: Following | None) -> None:
        """See `Residual`; `out` is x."""
        at, counts, (first, second) = lists.at, lists.counts, (self.first, self.second)
        rows = x.new_empty(len(at), x.shape[3])
        operators.depthwise_norm_at(rows, x, at, counts, self.taps, self.taps_bias, self.eps)
        layers = first.weight, first.bias, second.weight, second.bias
        if self.response is None and mlp_tile(len(at), x.shape[3], len(first.bias), x.dtype, x.device):
            operators.mlp_at(out, rows, at, counts, *layers)
        else:
            hidden = x.new_empty(len(at), len(first.bias))
            rest = (None, None, 1)
            operators.product_at(hidden, rows, at, counts, AT_M, first.weight, first.bias, len(first.bias),
                                 *lists.grid, "in order", 1, False, False, "gelu", *rest)
            if self.response is not None:
                operators.response_at(hidden, at, counts, lists.segments, self.response, self.response_eps,
                                      lists.grid[0] * lists.grid[1])
            operators.product_at(out, hidden, at, counts, AT_M, second.weight, second.bias, len(second.bias),
                                 *lists.grid, "in order", 1, True, True, "none", *rest)
        update(out, lists, False, following)


GpuPlan = BasicBlock | Bottleneck | ConvNeXtBlock
FORMS = {plans.BasicPlan: BasicBlock, plans.BottleneckPlan: Bottleneck, plans.ConvNeXtPlan: ConvNeXtBlock}


def plan_block(block: AdaptiveBlock, budget: str | Blend, dtype: torch.dtype) -> GpuPlan | None:
    """Plan a block in evaluation mode for maps of a type; None where `planning.why_masked` says why not."""
    return None if why_masked(block) else FORMS[plans.KINDS[type(block)]](block, budget, dtype)
