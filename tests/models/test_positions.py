"""Masked blocks against a slow execution that computes position by position, and counts as it goes."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from network_cases import adaptive, dense, flops_macs, images_of, perturb
from torch import Tensor, nn

from bdsa.models.blocks import AdaptiveBasicBlock, AdaptiveBlock
from bdsa.models.usage import Request


class Slow:
    """Runs a block for one image, only where it must, one dot product at a time, and counts the products.

    Values that were not computed are NaN: whoever reads one gets a NaN result.
    """

    def __init__(self, budget: str) -> None:
        self.budget, self.macs = budget, 0

    def dot(self, weight: Tensor, values: Tensor) -> Tensor:
        """weight: [O, ...], values: broadcast to it -> [O]; every product is one MAC."""
        products = weight * values
        self.macs += products.numel()
        return products.flatten(1).sum(1)

    def conv(self, layer: nn.Conv2d, x: Tensor, where: Tensor) -> Tensor:
        """x: [C, H, W], where: bool [h, w] -> [O, h, w], NaN where not asked for."""
        (s, _), (kh, kw), (ph, pw), (d, _) = layer.stride, layer.kernel_size, layer.padding, layer.dilation
        padded, per_group = F.pad(x, (pw, pw, ph, ph)), layer.out_channels // layer.groups
        out = x.new_full((layer.out_channels, *where.shape), torch.nan)
        for i, j in where.nonzero().tolist():
            window = padded[:, i * s:i * s + d * kh:d, j * s:j * s + d * kw:d].reshape(layer.groups, 1, -1, kh, kw)
            values = window.expand(-1, per_group, -1, -1, -1).flatten(0, 1)  # what each output channel reads
            out[:, i, j] = self.dot(layer.weight, values) + (0 if layer.bias is None else layer.bias)
        return out

    def batch_norm(self, layer: nn.Module, x: Tensor) -> Tensor:
        own = layer.per_budget[self.budget]
        column = lambda v: v[:, None, None]  # noqa: E731
        return (x - column(own.running_mean)) / column(own.running_var + own.eps).sqrt() * column(own.weight) \
            + column(own.bias)

    def shortcut(self, block: AdaptiveBlock, x: Tensor) -> Tensor:
        if block.downsample is None:
            return x
        for layer in block.downsample if isinstance(block.downsample, nn.Sequential) else [block.downsample]:
            x = self.batch_norm(layer, x) if isinstance(layer, nn.BatchNorm2d) else layer(x[None])[0]
        return x

    def resnet(self, block: AdaptiveBlock, x: Tensor, mask: Tensor) -> Tensor:
        convs, norms = [block.conv1, block.conv2], [block.bn1, block.bn2]
        before = mask  # where the first layer runs
        if isinstance(block, AdaptiveBasicBlock):
            before = read_by(mask, 1, mask.shape, block.conv2.dilation[0])
        else:
            convs, norms = [*convs, block.conv3], [*norms, block.bn3]
            before = read_by(mask, block.conv2.stride[0], x.shape[1:], block.conv2.dilation[0])
        before = mask if block.submanifold else before
        y = x
        for i, (conv, norm) in enumerate(zip(convs, norms)):
            y = self.batch_norm(norm, self.conv(conv, y, mask if i else before))
            y = y.relu() if i + 1 < len(convs) else y  # NaN stays NaN
            if i == 0 and block.submanifold:
                y[:, ~mask] = 0
        out = self.shortcut(block, x).clone()
        out[:, mask] += y[:, mask]
        return out.relu()

    def convnext(self, block: AdaptiveBlock, x: Tensor, mask: Tensor) -> Tensor:
        norm = block.norm.per_budget[self.budget]
        y = self.conv(block.conv_dw, x, mask)[:, mask].T  # [positions, C]
        y = y - y.mean(1, keepdim=True)
        y = y / (y.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
        hidden = [block.mlp.act(self.dot(block.mlp.fc1.weight.flatten(1), row) + block.mlp.fc1.bias) for row in y]
        hidden = torch.stack(hidden) if hidden else y.new_zeros(0, block.mlp.fc1.bias.numel())
        if hasattr(block.mlp, "grn"):  # over the active positions only
            size = hidden.square().sum(0).sqrt()
            response = size / (size.mean() + block.mlp.grn.eps)
            hidden = hidden + block.mlp.grn.weight * hidden * response + block.mlp.grn.bias
        scale = 1 if block.gamma is None else block.gamma
        out = x.clone()
        for (i, j), row in zip(mask.nonzero().tolist(), hidden):
            out[:, i, j] += scale * (self.dot(block.mlp.fc2.weight.flatten(1), row) + block.mlp.fc2.bias)
        return out


def read_by(mask: Tensor, stride: int, size: tuple[int, int], dilation: int) -> Tensor:
    """Input positions that a 3x3 convolution as wide as its dilation reads for the outputs of `mask`."""
    needed = torch.zeros(*size, dtype=torch.bool)
    for i, j in mask.nonzero().tolist():
        for row in (i * stride - dilation, i * stride, i * stride + dilation):
            for column in (j * stride - dilation, j * stride, j * stride + dilation):
                if 0 <= row < size[0] and 0 <= column < size[1]:
                    needed[row, column] = True
    return needed


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [
    ("cifar_resnet20", (15, 18)), ("resnet18", (45, 37)), ("resnet50", (45, 37)), ("resnext50_32x4d", (40, 48)),
    ("convnext_atto", (61, 45)), ("convnext_tiny", (36, 44)), ("convnextv2_atto", (61, 45)),
    ("resnet18 output_stride=8", (45, 37)), ("resnet26 output_stride=16", (45, 37)),
    ("convnext_atto output_stride=8", (45, 37)), ("cifar_resnet20 submanifold", (15, 18)),
    ("resnet26 submanifold", (45, 37)), ("resnet26 output_stride=16 submanifold", (45, 37))])
@torch.no_grad()
def test_masked_blocks_equal_the_slow_execution_in_output_and_macs(name, size):
    x = images_of(size).double()
    network = perturb(adaptive(name).double(), x)
    macs = dense_macs = flops_macs(dense(name.removesuffix(" submanifold")), images_of(size, 1))
    images, densities, total = x, [], 0
    executed = torch.zeros(2, dtype=torch.float64)
    for module in network.trunk():
        if not isinstance(module, AdaptiveBlock):
            x = module(x)
            continue
        y, usage = module.run(x, Request("b060"))
        shortcut = getattr(module, "downsample", None)
        block_total = flops_macs(module, x[:1]) - (flops_macs(shortcut, x[:1]) if shortcut is not None else 0)
        assert usage.total == module.run(x, Request(None))[1].total == block_total
        densities.append(usage.mask.float().mean().item())
        for image in range(2):
            slow = Slow("b060")
            run = slow.resnet if "resne" in name else slow.convnext
            torch.testing.assert_close(run(module, x[image], usage.mask[image, 0]), y[image], rtol=1e-9, atol=1e-9)
            assert usage.cost[image].item() == slow.macs
            executed[image] += slow.macs
        macs += flops_macs(module.mask_units["b060"], x[:1]) - block_total
        total += block_total
        x = y
    assert min(densities) < 0.4 and max(densities) > 0.6 and sum(0 < d < 1 for d in densities) > len(densities) / 2
    usage = network(images, budget=0.6, return_usage=True)[1]
    assert torch.equal(usage.macs, macs + executed) and dense_macs > total
    torch.testing.assert_close(usage.conditional_fraction, executed / total, rtol=1e-12, atol=0)
