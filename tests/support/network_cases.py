"""Networks and images to test on: every weight is random, so that no branch hides behind a zero."""
from __future__ import annotations

import copy
import functools

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bdsa.budgets import Budgets
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.surgery import adapt
from bdsa.models.usage import Request

FAMILIES = ("cifar_resnet20", "resnet18", "resnet50", "resnext50_32x4d", "convnext_atto", "convnext_tiny",
            "convnextv2_atto")
SIZES = ((64, 64), (32, 96), (61, 45))


@functools.cache
def dense(name: str) -> nn.Module:
    """timm's network in eval mode, without zeros or ones among its weights: a fresh one would hide its
    residual branches behind layer scales of 1e-6 and last norms of 0. Copied, never changed.

    Args:
        name: timm's, perhaps with arguments behind it: "resnet18 output_stride=8".
    """
    torch.manual_seed(1)
    name, *arguments = name.split()
    network = timm.create_model(name, **{key: int(value) for key, _, value in (a.partition("=") for a in arguments)})
    network.eval()
    randomise(network, lambda key: True)
    return network


@torch.no_grad()
def randomise(network: nn.Module, chosen) -> None:
    """New values for the chosen vectors: gains near one, offsets near zero, variances near one."""
    for key, value in network.state_dict().items():
        if value.ndim != 1 or not chosen(key):
            continue
        noise = torch.randn_like(value)
        if key.endswith("running_var"):
            value.copy_(0.7 + 0.3 * noise.abs())
        else:
            value.copy_(0.1 * noise + (key.endswith(("weight", "gamma")) and "head.fc" not in key))


def adaptive(name: str, budgets=(0.3, 0.6), affine: str = "separate") -> AdaptiveNetwork:
    """An adaptive copy of `dense(name)`, in eval mode; "submanifold" at the name's end makes its blocks such."""
    plain = name.removesuffix(" submanifold")
    network = copy.deepcopy(dense(plain))
    torch.manual_seed(0)  # fresh mask units
    adapt(network, Budgets(budgets), affine, name, submanifold=plain != name)
    return network


@torch.no_grad()
def perturb(network: AdaptiveNetwork, images: Tensor) -> AdaptiveNetwork:
    """Give every budget norms of its own and mask units that leave from 20 % to 80 % of the positions."""
    torch.manual_seed(2)
    randomise(network, lambda key: ".per_budget." in key)
    for name in (b.name for b in network.budgets.adaptive):
        x = images
        for module in network.trunk():
            if isinstance(module, AdaptiveBlock):
                unit = module.mask_units[name]
                unit.conv.bias -= unit(x).quantile(float(torch.empty(()).uniform_(0.2, 0.8)))
                x, _ = module.run(x, Request(name))
            else:
                x = module(x)
    return network


def images_of(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def flops_macs(network, x: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops() // 2
