"""Networks, images and masks for the tests of sparse execution, and what must be the same as in masked execution."""
from __future__ import annotations

import functools

import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

import bdsa
from bdsa.method.masks import MaskUnit
from bdsa.method.norms import BatchStatistics
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.precision import distance

BUDGETS = [0.4, 0.7]
# Every block type, stride and shortcut; channel counts that fill no vector, panel or tile.
NETWORKS = {
    "cifar_resnet8": {}, "cifar_resnet14": {"shortcut": "B"}, "resnet18": {}, "resnet26": {}, "resnet26d": {},
    "resnext50_32x4d": {}, "convnextv2_atto": {}, "resnet10t": {"down_kernel_size": 3},
    "convnext_atto": {}, "convnext_pico": {"use_grn": False, "conv_mlp": True},
    "cifar_resnet8 submanifold": {"submanifold": True},
    "cifar_resnet14 submanifold": {"shortcut": "B", "submanifold": True},
    "resnet26 submanifold": {"submanifold": True, "layers": (2, 2, 1, 1)},
    "resnext50_32x4d submanifold": {"submanifold": True, "layers": (2, 1, 1, 1)},
}
SIZES = [(1, 32, 32), (3, 33, 47), (2, 64, 40)]


def network_of(name: str, mask_norm: str = "none", norm_affine: str = "separate", **args) -> AdaptiveNetwork:
    """A network whose norms, scales and mask units are not what they start from; its name is the first word."""
    torch.manual_seed(1)
    name = name.split()[0]
    network = bdsa.create_model(name, BUDGETS, 10, mask_norm=mask_norm, norm_affine=norm_affine, **args).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, BatchStatistics)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            if isinstance(module, MaskUnit):
                module.fc.bias.uniform_(-0.1, 0.1)
            if isinstance(getattr(module, "gamma", None), nn.Parameter):
                module.gamma.uniform_(0.5, 1)
            if isinstance(module, GlobalResponseNorm):
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.1)
    return network


@functools.lru_cache(maxsize=4)
def kept_network(name: str) -> AdaptiveNetwork:
    """One of NETWORKS, and what was packed for it: for tests one after another that change no weight."""
    return network_of(name, **NETWORKS[name])


def images_of(size: tuple[int, int, int]) -> Tensor:
    batch, height, width = size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def masks_like(network: AdaptiveNetwork, images: Tensor, kind: str) -> list[Tensor]:
    """Masks of one kind for every block."""
    with torch.inference_mode():
        masks = network(images, budget=BUDGETS[0], return_usage=True)[1].masks
    generator = torch.Generator().manual_seed(3)
    made = []
    for mask in masks:
        if kind == "one position":
            new = torch.zeros_like(mask)
            new[-1, 0, mask.shape[2] - 1, mask.shape[3] // 2] = True
        else:
            share = {"empty": 0.0, "full": 1.1, "scattered": 0.3}[kind]
            new = torch.rand(mask.shape, generator=generator) < share
        made.append(new)
    return made


def both(network: AdaptiveNetwork, images: Tensor, budget: float, masks: list[Tensor] | None = None):
    """(logits, usage) of masked and of sparse execution."""
    with torch.inference_mode():
        network.execution = "masked"
        expected = network(images, budget=budget, return_usage=True, masks=masks)
        network.execution = "sparse"
        found = network(images, budget=budget, return_usage=True, masks=masks)
    return expected, found


def assert_same(expected, found) -> None:
    (logits, usage), (sparse_logits, sparse_usage) = expected, found
    spread = logits.max() - logits.min()
    assert (logits - sparse_logits).abs().max() < 1e-4 * spread
    assert all(torch.equal(a, b) for a, b in zip(usage.masks, sparse_usage.masks, strict=True))
    assert torch.equal(usage.macs, sparse_usage.macs)
    assert torch.equal(usage.conditional_fraction, sparse_usage.conditional_fraction)
    for a, b in zip(usage.mask_logits, sparse_usage.mask_logits, strict=True):
        assert (a - b).abs().max() < 1e-4 * max(1.0, float(a.abs().max()))


def logits_of(network: AdaptiveNetwork, images: Tensor, execution: str, precision: str, masks: list[Tensor]) -> Tensor:
    """Of an inference that is recorded, where it can be."""
    network.execution, network.precision = execution, precision
    with torch.inference_mode():
        network(images, budget=BUDGETS[0], masks=masks)
        return network(images, budget=BUDGETS[0], masks=masks)


def assert_near(network: AdaptiveNetwork, images: Tensor, kind: str) -> None:
    """In bfloat16 an inference is the one in float32 to rounding, sparsely and masked."""
    network.precision = "float32"
    masks = masks_like(network, images, kind)
    exact = logits_of(network, images, "masked", "float32", masks)
    sparse = logits_of(network, images, "sparse", "bfloat16", masks)
    masked = logits_of(network, images, "masked", "bfloat16", masks)
    network.precision = "float32"  # others keep this network too
    assert 0 < distance(sparse, exact) < 0.02 and 0 < distance(masked, exact) < 0.02
    assert distance(sparse, masked) < 0.02
