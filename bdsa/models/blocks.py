"""Adaptive forms of timm's residual blocks: the same weights under the same names, plus mask units.

A block is adapted by changing its class in place (`bdsa.models.surgery`). `block.run(x, request)` computes
`identity + m * residual(x)` for the requested budget, and returns what it cost. Called as timm calls it,
`block(x)`, it is the dense block, unless a budget was asked for around the call (`bdsa.models.asking`).
Which layers are needed where (docs/method.md, section 3):

    basic       conv1 at D(m), output resolution     conv2 at m
    bottleneck  conv1 at D(m), input resolution      conv2 and conv3 at m
    ConvNeXt    nothing                              everything at m

A submanifold block has no layer at D(m): conv1 too is computed at m, and the convolution that reads it finds zeros
elsewhere. A bottleneck with a stride keeps D(m): its conv1 runs on another map than its mask.
"""
from __future__ import annotations

import torch
from timm.layers import GlobalResponseNormMlp
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from bdsa.method.dilation import dilate, dilate_to_input
from bdsa.method.exact import Costs
from bdsa.method.macs import active, count_type, macs_per_position
from bdsa.method.masks import MaskUnit, gumbel_difference, straight_through
from bdsa.method.norms import Blend, BudgetNorm, add_budget_norms
from bdsa.models.asking import asked_of
from bdsa.models.usage import BlockUsage, Request


class AdaptiveBlock(nn.Module):
    """What the adaptive blocks share: mask units per budget, the decision and the accounting."""

    mask_units: nn.ModuleDict
    norm_names: tuple[str, ...]
    norms_follow = False  # whether bn1, bn2 and bn3 come right behind conv1, conv2 and conv3
    submanifold = False   # whether what would be computed at D(m) is computed at m

    def add_budgets(self, names: list[str], affine: str, mask_norm: str, mask_start: str) -> None:
        """Add a mask unit and norms for each budget; the block's device and dtype are kept."""
        like = next(self.parameters())
        channels, stride = self.geometry()
        self.mask_units = nn.ModuleDict({n: MaskUnit(channels, stride, mask_norm, mask_start).to(like) for n in names})
        self.mask_units.train(self.training)  # a network adapted in eval mode is ready for inference
        norms = [getattr(self, n) for n in self.norm_names]
        shortcut = getattr(self, "downsample", None)
        norms += [m for m in shortcut.modules() if isinstance(m, nn.BatchNorm2d)] if shortcut is not None else []
        for norm in norms:
            add_budget_norms(norm, names, affine)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C', h, w], at the budget that is asked for around the call, else densely."""
        asked = asked_of(self)
        request = None if asked is None else asked.asks(self, x)
        if asked is None or request is None:
            return super().forward(x)
        y, used = self.run(x, request, None if asked.given is None else next(asked.given))
        if asked.used is not None:
            asked.used.append(used)
        return y

    def run(self, x: Tensor, request: Request, given: Tensor | None = None) -> tuple[Tensor, BlockUsage]:
        """The block's output and what it used for the requested budget.

        Args:
            x: [B, C, H, W].
            request: the budget and how masks are made.
            given: bool [B, 1, h, w], a mask that replaces the mask unit's decision.
        """
        if request.budget is None:
            y = super().forward(x)
            dilated_macs, masked_macs = self.macs_per_position()
            mask = y.new_ones((y.shape[0], 1, *y.shape[2:]), dtype=torch.bool)
            total = self.dilated_positions(x, y) * dilated_macs + y.shape[2] * y.shape[3] * masked_macs
            cost = torch.full((y.shape[0],), float(total), device=y.device, dtype=count_type(y.device))
            return y, BlockUsage(mask, cost, total, 0, None)
        unit = self.mask_units[request.budget]
        towards = () if (b := request.blend) is None or not b.whole else (self.mask_units[b.second], b.share)
        clean = unit(x, *towards)                                           # [B, 1, h, w]
        if request.offset:
            clean = clean + request.offset
        logits = clean
        if given is None and request.exact is not None:
            given = request.exact.mask(logits, self.costs(x, logits))
        if given is not None:
            if given.shape != logits.shape:
                raise ValueError(f"a given mask is {list(given.shape)} and the block decides {list(logits.shape)}")
            logits = given.float() - 0.5
        elif request.noise:
            logits = logits + gumbel_difference(logits, request.shard)
        mask = straight_through(logits, request.temperature)
        y = self.masked(x, mask.to(x.dtype), request.blend or request.budget)
        source = logits if request.differentiable_dilation else logits.detach()
        cost, total = self.cost(mask, source, x, request)
        loss_cost = self.cost(mask, source, x, request, published=True) if request.published_cost else None
        mask_macs = unit.macs(*mask.shape[2:])
        return y, BlockUsage(mask.detach().bool(), cost, total, mask_macs, clean.detach(), loss_cost)

    def cost(self, mask: Tensor, logits: Tensor, x: Tensor, request: Request,
             published: bool = False) -> tuple[Tensor, int]:
        """Conditional MACs [B] that a mask makes the block spend, and those of the dense block.

        Args:
            mask, logits: [B, 1, h, w], the decision and what it was made from.
            x: [B, C, H, W], the block's input.
            published: count as the authors' code does; see `Request.published_cost`.
        """
        dilated_macs, masked_macs = self.macs_per_position(groups_twice=published)
        cost = active(mask) * masked_macs
        total = mask.shape[2] * mask.shape[3] * masked_macs
        if dilated_macs:
            dilated = dilate(logits, self.reach()) if published else self.dilate(logits, x)
            dilated = straight_through(dilated, request.temperature)
            cost = cost + active(dilated) * dilated_macs
            total += dilated.shape[2] * dilated.shape[3] * dilated_macs
        return cost, total

    def costs(self, x: Tensor, logits: Tensor) -> Costs:
        """What a decision by logits [B, 1, h, w] costs at an input x [B, C, H, W]."""
        dilated_macs, masked_macs = self.macs_per_position()
        size, stride = self.dilated_grid(x, logits)
        return Costs(masked_macs, dilated_macs, size, stride, self.reach() if dilated_macs else 1)

    def geometry(self) -> tuple[int, int]:
        """Input channels and stride of the block."""
        raise NotImplementedError

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers with MACs that are computed at D(m), and those at m."""
        raise NotImplementedError

    def macs_per_position(self, groups_twice: bool = False) -> tuple[int, int]:
        """MACs per position of the layers at D(m) and of the layers at m."""
        dilated, masked = (macs_per_position(*layers, groups_twice=groups_twice) for layers in self.layers())
        return dilated, masked

    def dilate(self, logits: Tensor, x: Tensor) -> Tensor:
        """Logits of D(m), at the resolution where the layers at D(m) are computed."""
        return dilate(logits, self.reach())

    def dilated_grid(self, x: Tensor, logits: Tensor) -> tuple[tuple[int, int], int]:
        """Height and width of the map where the layers at D(m) run, and the stride on it of what reads them."""
        return (logits.shape[2], logits.shape[3]), 1

    def can_be_submanifold(self) -> bool:
        """Whether `masked` and `layers` heed `submanifold`."""
        return False

    def reach(self) -> int:
        """The dilation of the 3x3 convolution that reads what is computed at D(m)."""
        return 1

    def dilated_positions(self, x: Tensor, y: Tensor) -> int:
        """Positions per image at which the dense block computes the layers at D(m)."""
        return y.shape[2] * y.shape[3]

    def masked(self, x: Tensor, mask: Tensor, budget: str | Blend) -> Tensor:
        """identity + mask * residual(x). x: [B, C, H, W], mask: [B, 1, h, w] of zeros and ones."""
        raise NotImplementedError

    def identity(self, x: Tensor, budget: str | Blend) -> Tensor:
        """The dense identity branch of a ResNet block, with the budget's norm in its projection."""
        if self.downsample is None:
            return x
        layers = self.downsample if isinstance(self.downsample, nn.Sequential) else [self.downsample]
        for layer in layers:
            x = layer(x, budget) if isinstance(layer, BudgetNorm) else layer(x)
        return x

    def dropped(self, residual: Tensor) -> Tensor:
        """Stochastic depth, where the network has it."""
        return residual if self.drop_path is None else self.drop_path(residual)


class BasicWays(AdaptiveBlock):
    """3x3 (stride s), 3x3: of timm's block and of torchvision's."""

    norm_names = ("bn1", "bn2")
    norms_follow = True

    def geometry(self) -> tuple[int, int]:
        return self.conv1.in_channels, self.conv1.stride[0]

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return ([], [self.conv1, self.conv2]) if self.submanifold else ([self.conv1], [self.conv2])

    def can_be_submanifold(self) -> bool:
        return True

    def reach(self) -> int:
        return self.conv2.dilation[0]

    def masked(self, x: Tensor, mask: Tensor, budget: str | Blend) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x), budget))
        y = self.dropped(self.bn2(self.conv2(y * mask if self.submanifold else y), budget))
        return self.act2(y * mask + self.identity(x, budget))


class AdaptiveBasicBlock(BasicWays, BasicBlock):
    """timm's."""


class BottleneckWays(AdaptiveBlock):
    """1x1, 3x3 (stride s, grouped in ResNeXt), 1x1: of timm's block and of torchvision's."""

    norm_names = ("bn1", "bn2", "bn3")
    norms_follow = True

    def geometry(self) -> tuple[int, int]:
        return self.conv1.in_channels, self.conv2.stride[0]

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        if self.submanifold:
            return [], [self.conv1, self.conv2, self.conv3]
        return [self.conv1], [self.conv2, self.conv3]

    def can_be_submanifold(self) -> bool:
        return self.conv2.stride[0] == 1

    def reach(self) -> int:
        return self.conv2.dilation[0]

    def dilate(self, logits: Tensor, x: Tensor) -> Tensor:
        size, stride = self.dilated_grid(x, logits)
        return dilate_to_input(logits, stride, size, self.reach())

    def dilated_grid(self, x: Tensor, logits: Tensor) -> tuple[tuple[int, int], int]:
        return (x.shape[2], x.shape[3]), self.conv2.stride[0]

    def dilated_positions(self, x: Tensor, y: Tensor) -> int:
        return x.shape[2] * x.shape[3]

    def masked(self, x: Tensor, mask: Tensor, budget: str | Blend) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x), budget))
        y = self.act2(self.bn2(self.conv2(y * mask if self.submanifold else y), budget))
        y = self.dropped(self.bn3(self.conv3(y), budget))
        return self.act3(y * mask + self.identity(x, budget))


class AdaptiveBottleneck(BottleneckWays, Bottleneck):
    """timm's."""


class ConvNeXtWays(AdaptiveBlock):
    """Depthwise 7x7, norm, 1x1, GELU, 1x1, layer scale: of timm's block and of torchvision's."""

    norm_names = ("norm",)

    def geometry(self) -> tuple[int, int]:
        return self.conv_dw.in_channels, self.conv_dw.stride[0]

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return [], [self.conv_dw, self.mlp.fc1, self.mlp.fc2]


class AdaptiveConvNeXtBlock(ConvNeXtWays, ConvNeXtBlock):
    """timm's, with (v2) a global response norm behind the GELU or (v1) a layer scale.

    The global response norm of ConvNeXt v2 looks at all positions of a map. Here it looks at the
    active ones: the inactive are zeroed before it, so that sparse execution needs no others, and
    with every position active it is the dense layer.
    """

    def masked(self, x: Tensor, mask: Tensor, budget: str | Blend) -> Tensor:
        y = self.conv_dw(x)
        if self.use_conv_mlp:
            y = self.masked_mlp(self.norm(y, budget), mask)
        else:
            y = self.norm(y.permute(0, 2, 3, 1), budget)
            y = self.masked_mlp(y, mask.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.gamma is not None:
            y = y.mul(self.gamma.reshape(1, -1, 1, 1))
        return self.drop_path(y) * mask + x

    def masked_mlp(self, y: Tensor, mask: Tensor) -> Tensor:
        """The two pointwise layers; `mask` has the layout of `y` with one channel."""
        if not isinstance(self.mlp, GlobalResponseNormMlp):
            return self.mlp(y)
        y = self.mlp.drop1(self.mlp.act(self.mlp.fc1(y))) * mask
        return self.mlp.drop2(self.mlp.fc2(self.mlp.grn(y)))
