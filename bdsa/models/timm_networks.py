"""Adaptive forms of timm's ResNet and ConvNeXt, and of the CIFAR ResNet: what their trunks are."""
from __future__ import annotations

from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import nn

from bdsa.models.cifar_resnet import CifarResNet
from bdsa.models.network import AdaptiveNetwork


class AdaptiveResNet(AdaptiveNetwork, ResNet):
    """timm's ResNet with a budget."""

    def trunk(self) -> list[nn.Module]:
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [self.conv1, self.bn1, self.act1, self.maxpool, *(block for stage in stages for block in stage)]


class AdaptiveCifarResNet(AdaptiveNetwork, CifarResNet):
    """The CIFAR ResNet with a budget."""

    def trunk(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.act1, *self.layer1, *self.layer2, *self.layer3]


class AdaptiveConvNeXt(AdaptiveNetwork, ConvNeXt):
    """timm's ConvNeXt with a budget."""

    def trunk(self) -> list[nn.Module]:
        stages = (m for stage in self.stages for m in (stage.downsample, *stage.blocks))
        return [self.stem, *stages, self.norm_pre]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        super().set_grad_checkpointing(enable)
        self.grad_checkpointing = enable
