"""Adaptive forms of torchvision's ResNet and ConvNeXt: the same weights under the same names, plus mask units.

torchvision names the parts of its blocks otherwise than timm does; the properties here give them timm's names, by
which masked and sparse execution know them.
"""
from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn
from torchvision.models.convnext import CNBlock, ConvNeXt
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from bdsa.models.blocks import AdaptiveBlock, BasicWays, BottleneckWays, ConvNeXtWays
from bdsa.models.network import AdaptiveNetwork


class _OneActivation:
    """A block with one relu, which follows each of its norms, and no stochastic depth."""

    relu: nn.Module
    drop_path = None
    norms_follow = True

    @property
    def act1(self) -> nn.Module:
        return self.relu

    act2 = act3 = act1


class AdaptiveTorchvisionBasicBlock(_OneActivation, BasicWays, BasicBlock):
    """torchvision's."""


class AdaptiveTorchvisionBottleneck(_OneActivation, BottleneckWays, Bottleneck):
    """torchvision's."""


class AdaptiveTorchvisionConvNeXtBlock(ConvNeXtWays, CNBlock):
    """torchvision's."""

    use_conv_mlp = False

    @property
    def conv_dw(self) -> nn.Module:
        return self.block[0]

    @property
    def norm(self) -> nn.Module:
        return self.block[2]

    @property
    def mlp(self) -> SimpleNamespace:
        return SimpleNamespace(fc1=self.block[3], act=self.block[4], fc2=self.block[5])

    @property
    def gamma(self) -> Tensor:
        return self.layer_scale.flatten()

    def masked(self, x: Tensor, mask: Tensor, budget: str) -> Tensor:
        y = x
        for layer in self.block:
            y = layer(y, budget) if layer is self.norm else layer(y)
        return self.stochastic_depth(self.layer_scale * y) * mask + x


class AdaptiveTorchvisionResNet(AdaptiveNetwork, ResNet):
    """torchvision's ResNet with a budget."""

    def trunk(self) -> list[nn.Module]:
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [self.conv1, self.bn1, self.relu, self.maxpool, *(block for stage in stages for block in stage)]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(x).flatten(1))

    @property
    def num_classes(self) -> int:
        return self.fc.out_features

    @property
    def feature_info(self) -> list[dict]:
        return _stages(self, ["relu", "layer1", "layer2", "layer3", "layer4"])


class AdaptiveTorchvisionConvNeXt(AdaptiveNetwork, ConvNeXt):
    """torchvision's ConvNeXt with a budget."""

    def trunk(self) -> list[nn.Module]:
        return [m for part in self.features for m in (part if isinstance(part[0], CNBlock) else [part])]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(x))

    @property
    def num_classes(self) -> int:
        return self.classifier[-1].out_features

    @property
    def feature_info(self) -> list[dict]:
        return _stages(self, [f"features.{i}" for i in (1, 3, 5, 7)])


def _stages(network: AdaptiveNetwork, names: list[str]) -> list[dict]:
    """What timm's networks say of their stages: how many channels each gives, and how much smaller its map is."""
    found: dict[str, dict] = {}
    channels, reduction = 0, 1
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and ".mask_units." not in name and ".downsample" not in name:
            channels, reduction = module.out_channels, reduction * module.stride[0]
        elif isinstance(module, nn.MaxPool2d):
            reduction *= 2
        for stage in names:
            if name == stage or name.startswith(f"{stage}."):
                found[stage] = dict(num_chs=channels, reduction=reduction, module=stage)
    return list(found.values())


BLOCKS: dict[type[nn.Module], type[AdaptiveBlock]] = {
    BasicBlock: AdaptiveTorchvisionBasicBlock,
    Bottleneck: AdaptiveTorchvisionBottleneck,
    CNBlock: AdaptiveTorchvisionConvNeXtBlock,
}
NETWORKS: dict[type[nn.Module], type[AdaptiveNetwork]] = {
    ResNet: AdaptiveTorchvisionResNet,
    ConvNeXt: AdaptiveTorchvisionConvNeXt,
}
