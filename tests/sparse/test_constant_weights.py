"""Weights that are taken for constant, watch_weights="never": until when, and what is to be announced."""
from __future__ import annotations

import copy

import pytest
import torch
from changed_cases import assert_right, logits_of
from sparse_cases import BUDGETS, images_of, network_of
from torch import Tensor

import bdsa
from bdsa.errors import UserError
from bdsa.models.modes import evaluating
from bdsa.models.network import AdaptiveNetwork


def test_constant_weights_are_believed_until_a_change_is_announced_or_the_network_trains() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.watch_weights = "never"
    assert_right(network, images)
    before = logits_of(network, images, "sparse")
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    assert torch.equal(logits_of(network, images, "sparse"), before)
    network.weights_changed()
    assert_right(network, images)
    network.train()
    with torch.no_grad():
        network.conv1.weight.mul_(2)
        network(images, budget=0.4)
    assert_right(network.eval(), images)
    network.watch_weights = "nevr"
    with pytest.raises(UserError, match="watch_weights='nevr' must be True, False or 'never'"):
        logits_of(network, images, "sparse")


def one_step(network: AdaptiveNetwork, logits: Tensor) -> None:
    logits.square().sum().backward()
    with torch.no_grad():
        for p in network.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad / p.grad.norm().clamp(min=1e-6)


@pytest.mark.parametrize("way", ["masked", "dense with usage", "block by block", "compiled", "evaluated between"])
def test_constant_weights_end_with_any_way_of_training(way: str) -> None:
    network, images = network_of("cifar_resnet8"), images_of((2, 16, 16))
    network.watch_weights = "never"
    before = logits_of(network, images, "sparse")
    network.train()
    if way == "masked":
        network.execution = "masked"
        one_step(network, network(images, budget=BUDGETS[0]))
    elif way == "dense with usage":
        one_step(network, network(images, budget=1.0, return_usage=True)[0])
    elif way == "block by block":
        with network.at_budget(BUDGETS[0]):
            one_step(network, network.forward_head(network.layer3(network.layer2(network.layer1(
                network.act1(network.bn1(network.conv1(images))))))))
    elif way == "compiled":
        one_step(network, torch.compile(network, backend="eager")(images, budget=BUDGETS[0]))
    else:
        for _ in range(2):
            one_step(network, network(images, budget=BUDGETS[0]))
            with evaluating(network):
                logits_of(network, images, "sparse")
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    network.eval()
    assert not torch.equal(before, logits_of(network, images, "sparse"))  # first: another execution looks by itself
    assert_right(network, images, before)


def test_another_execution_looks_at_constant_weights_once() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.watch_weights = "never"
    before = logits_of(network, images, "sparse")
    network.execution = "masked"
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    assert not torch.equal(before, logits_of(network, images, "sparse"))


def test_constant_weights_are_those_that_the_network_has_when_it_is_said() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    assert_right(network, images)
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    network.watch_weights = "never"
    assert_right(network, images)
    network.watch_weights = True
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    network.watch_weights = "never"
    assert_right(network, images)
    handle = network.layer1[0].conv2.register_forward_hook(lambda module, given, found: 2 * found)
    network.weights_changed()
    assert_right(network, images)
    handle.remove()
    network.weights_changed()
    assert_right(network, images)


@pytest.mark.parametrize("way", ["constant", "exact", "twice"])
def test_a_calibration_is_the_same_whatever_calls_of_the_network_mean(way: str) -> None:
    """Weights that are taken for constants do move; and thresholds are those of one look, at means over images."""
    network, images = network_of("cifar_resnet8"), images_of((16, 32, 32))
    plain = copy.deepcopy(network)
    network.execution = plain.execution = "sparse"
    bdsa.calibrate(plain, [images])
    if way == "constant":
        network.watch_weights = "never"
        with torch.inference_mode():
            network(images, budget=0.4)
    if way == "twice":
        bdsa.calibrate_confidence(network, [images])
    network.per_image, network.cascade = way == "exact", way == "twice"
    report = bdsa.calibrate(network, [images])
    assert abs(report["b040"][1] - 0.4) < 0.02 < abs(report["b040"][0] - 0.4)
    assert all(map(torch.equal, network.state_dict().values(), plain.state_dict().values()))
    assert network.curves == plain.curves and (network.per_image, network.cascade) == (way == "exact", way == "twice")
