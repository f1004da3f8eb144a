"""Layers that the kernels do not know in the place of those they do run masked, and what cannot fit raises."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sparse_cases import BUDGETS, assert_same, both, images_of, network_of
from torch import nn

from bdsa.models.network import AdaptiveNetwork

SHORT = {"resnet18": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
         "resnet26": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
         "resnet26d": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
         "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)}, "cifar_resnet8": {}}


def short(name: str) -> AdaptiveNetwork:
    return network_of(name, **SHORT[name])


def another_kernel(layer: nn.Conv2d, side: int, **how) -> nn.Conv2d:
    return nn.Conv2d(layer.in_channels, layer.out_channels, side, layer.stride, **{"padding": side // 2, **how})


def assert_right(network: AdaptiveNetwork, size: int = 33) -> None:
    network.eval()
    images = images_of((2, size, size + 7))
    assert_same(*both(network, images, BUDGETS[0]))
    with torch.inference_mode():
        network.execution = "masked"
        expected = network(images)
        network.execution = "sparse"
        assert (network(images) - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


@pytest.mark.parametrize(("name", "place", "side"), [
    ("resnet18", "conv1", 1), ("resnet18", "conv2", 1), ("resnet26", "conv1", 3), ("resnet26", "conv2", 1),
    ("resnet26", "conv3", 3), ("resnet18", "conv2", 5)])
def test_a_kernel_of_another_size_than_its_place_has_runs_masked(name: str, place: str, side: int) -> None:
    network = short(name)
    block = network.layer1[0]
    setattr(block, place, another_kernel(getattr(block, place), side, bias=False))
    assert_right(network)


@pytest.mark.parametrize(("name", "place"), [("resnet18", "conv2"), ("resnet26", "conv1"), ("resnet26", "conv3")])
@torch.inference_mode()
def test_a_stride_in_another_layer_raises_as_in_masked_execution(name: str, place: str) -> None:
    network = short(name)
    getattr(network.layer2[0], place).stride = (2, 2)
    for network.execution in ("masked", "sparse"):
        with pytest.raises(RuntimeError):
            network(images_of((1, 32, 32)), budget=BUDGETS[0])


@pytest.mark.parametrize("name", ["resnet18", "resnet26d"])
@torch.inference_mode()
def test_a_shortcut_that_does_not_fit_raises(name: str) -> None:
    network, images = short(name), images_of((1, 68, 68))
    network.execution = "sparse"
    if name == "resnet26d":
        network.layer2[0].downsample[0] = nn.AvgPool2d(2, 2).eval()
        network(images_of((1, 64, 64)), budget=BUDGETS[0])
    else:
        network.layer2[0].downsample[0].stride = (1, 1)
    with pytest.raises(ValueError, match=r"shortcut gives a map of (8x8|17x17), and its output is 9x9"):
        network(images, budget=BUDGETS[0])
    network.layer2[0].downsample = None
    with pytest.raises(RuntimeError, match="size"):
        network(images, budget=BUDGETS[0])


@pytest.mark.parametrize("change", [
    lambda network: setattr(network, "conv1", nn.Conv2d(3, 24, 3, padding=1)),
    lambda network: setattr(network.layer1[0], "conv2", nn.Conv2d(16, 24, 3, padding=1)),
    lambda network: setattr(network.layer2[0].downsample, "padding", (0, 0, 0, 0, 8, 9)),
    lambda network: setattr(network, "fc", nn.Linear(80, 10))], ids=["stem", "block", "shortcut", "classifier"])
@torch.inference_mode()
def test_channels_that_do_not_fit_raise(change: Callable[[AdaptiveNetwork], None]) -> None:
    network, images = short("cifar_resnet8"), images_of((1, 16, 16))
    change(network)
    network.bn1 = nn.Identity()
    for network.execution in ("masked", "sparse"):
        with pytest.raises((RuntimeError, ValueError)):
            network.eval()(images, budget=BUDGETS[0])


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "cifar_resnet8"])
def test_circular_padding_runs_masked(name: str) -> None:
    network = short(name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]
    assert_right(network, 128 if name == "convnext_atto" else 33)  # the border is no wider than the last map


@pytest.mark.parametrize("how", [
    {"padding_mode": "reflect"}, {"dilation": 2, "padding": 6}, {"kernel_size": 5, "padding": 2}, {"groups": 8}])
def test_another_depthwise_layer_runs_masked(how: dict) -> None:
    network = short("convnext_atto")
    network.stages[0].blocks[0].conv_dw = nn.Conv2d(16, 16, **{"kernel_size": 7, "padding": 3, "groups": 16, **how})
    assert_right(network, 64)


@pytest.mark.parametrize("how", [
    {"kernel_size": 5, "padding": 2}, {"dilation": 2, "padding": 2}, {"kernel_size": 1, "padding": 0},
    {"bias": False}, {"padding_mode": "reflect"}])
def test_another_mask_unit_runs_masked(how: dict) -> None:
    network = short("cifar_resnet8")
    for block in network.adaptive_blocks():
        unit = block.mask_units["b040"]
        unit.conv = nn.Conv2d(unit.conv.in_channels, 1, stride=unit.conv.stride,
                              **{"kernel_size": 3, "padding": 1, **how})
    assert_right(network)
