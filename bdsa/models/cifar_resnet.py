"""The CIFAR ResNets of He et al. 2015 (section 4.2), from timm's own blocks, registered with timm.

A 3x3 stem of 16 channels, three stages of n basic blocks with 16, 32 and 64 channels, depth 6n + 2.
Shortcut A subsamples and pads with zero channels (the paper's choice, no parameters), B projects.
Published CIFAR-10 weights that call the classifier `linear` load as they are.
"""
from __future__ import annotations

import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, make_blocks
from torch import Tensor, nn

from bdsa.errors import UserError


class SubsamplePad(nn.Module):
    """Shortcut A: every second position, new channels filled with zeros, half before and half after."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)]."""
        return F.pad(x[:, :, ::self.stride, ::self.stride], self.padding)


class CifarResNet(nn.Module):
    """ResNet for small images.

    Args:
        depth: 6n + 2, such as 20.
        num_classes, in_chans, drop_rate, drop_path_rate: as in timm.
        shortcut: "A" (subsample and pad) or "B" (1x1 projection with batch norm).
        width: channels of the first stage; the others have twice and four times as many.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, in_chans: int = 3, shortcut: str = "A",
                 width: int = 16, drop_rate: float = 0.0, drop_path_rate: float = 0.0,
                 global_pool: str = "avg") -> None:
        super().__init__()
        if (depth - 2) % 6 or depth < 8:
            raise UserError(f"depth {depth} of a CIFAR ResNet is not 6n + 2: take 8, 14, 20, 32, 44, 56 or 110")
        if shortcut not in ("A", "B"):
            raise UserError(f"shortcut '{shortcut}' of a CIFAR ResNet is neither A (pad) nor B (projection)")
        channels = (width, 2 * width, 4 * width)
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.conv1 = nn.Conv2d(in_chans, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        stages, _ = make_blocks((BasicBlock,) * 3, channels, ((depth - 2) // 6,) * 3, inplanes=width,
                                drop_path_rate=drop_path_rate, act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d)
        self.feature_info = []
        for i, (name, stage) in enumerate(stages):
            first = stage[0]
            if shortcut == "A" and first.downsample is not None:
                first.downsample = SubsamplePad(first.conv1.in_channels, channels[i], first.stride)
            self.add_module(name, stage)
            self.feature_info.append(dict(num_chs=channels[i], reduction=2 ** i, module=name))
        self.num_features = self.head_hidden_size = channels[-1]
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_intermediates(self, x: Tensor, indices: int | list[int] | None = None, norm: bool = False,
                              stop_early: bool = False, output_fmt: str = "NCHW", intermediates_only: bool = False
                              ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The last map and those after the chosen stages, all three unless told otherwise; arguments as in timm."""
        chosen, last = feature_take_indices(3, indices)
        x, found = self.act1(self.bn1(self.conv1(x))), []
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3)):
            if stop_early and i > last:
                break
            x = stage(x)
            if i in chosen:
                found.append(x)
        return found if intermediates_only else (x, found)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 3, H, W] -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give weights of other implementations timm's names: the classifier is `fc` here."""
    return {name.replace("linear.", "fc.", 1) if name.startswith("linear.") else name: value
            for name, value in state_dict.items()}


DEPTHS = (8, 14, 20, 32, 44, 56, 110)
default_cfgs = generate_default_cfgs({
    f"cifar_resnet{depth}.untrained": dict(
        url="", num_classes=10, input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, interpolation="bilinear",
        mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, first_conv="conv1", classifier="fc")
    for depth in DEPTHS})


def _register(depth: int) -> None:
    def build(pretrained: bool = False, **kwargs) -> CifarResNet:
        return build_model_with_cfg(CifarResNet, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn,
                                    depth=depth, **kwargs)

    name = f"cifar_resnet{depth}"
    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    build.__doc__ = f"CIFAR ResNet-{depth}."
    globals()[name] = register_model(build)


for _depth in DEPTHS:
    _register(_depth)
