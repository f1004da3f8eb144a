"""Features at a budget: timm's and torchvision's ways to them, none of which takes a budget by itself."""
from __future__ import annotations

import logging
import threading

import pytest
import torch
from sparse_cases import BUDGETS, images_of, network_of
from timm.models._features import FeatureListNet
from torch import Tensor
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

import bdsa
from bdsa.errors import UserError
from bdsa.models import asking
from bdsa.models.network import AdaptiveNetwork

FAMILIES = ("cifar_resnet8", "resnet18", "convnext_atto")
BUDGET = BUDGETS[0]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_said", set())


def by_hand(network: AdaptiveNetwork, images: Tensor) -> Tensor:
    x = images
    for module in network.trunk():
        x = module(x)
    return x


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_features_are_those_that_the_logits_come_from(name: str) -> None:
    network, images = network_of(name), images_of((2, 32, 32))
    for budget in (*BUDGETS, 1.0):
        logits, features = network(images, budget=budget), network.forward_features(images, budget=budget)
        assert torch.equal(network.forward_head(features), logits)
        last, maps = network.forward_intermediates(images, budget=budget)
        assert torch.equal(maps[-1], features) and torch.equal(last, features)
        assert [m.shape[1] for m in maps[-2:]] == [info["num_chs"] for info in network.feature_info[-2:]]
        with network.at_budget(budget):
            assert torch.equal(network(images), logits)
            assert torch.equal(network.forward_features(images), features)
            assert torch.equal(by_hand(network, images), features)
    assert not torch.equal(network.forward_features(images, budget=BUDGET), features)


@pytest.mark.slow
@torch.inference_mode()
def test_extractors_of_timm_and_torchvision_run_at_a_budget() -> None:
    network, images = network_of("resnet18"), images_of((1, 32, 32))
    expected = network.forward_features(images, budget=BUDGET)
    getter = IntermediateLayerGetter(network, {"layer4": "last"})
    listed = FeatureListNet(network, out_indices=(4,))
    compiled = torch.compile(getter, backend="eager")
    exact = network.forward_features(images, budget=BUDGET, per_image=True)
    with network.at_budget(BUDGET, per_image=True):
        assert torch.equal(getter(images)["last"], exact) and torch.equal(listed(images)[0], exact)
        assert torch.equal(network.forward_features(images), exact)
        assert torch.equal(network.forward_features(images, per_image=False), expected)
        assert torch.equal(network(images), network.forward_head(exact))
        with pytest.raises(UserError, match="block 2 was called out of turn"):
            network.layer2(network.layer1[0](network.maxpool(network.conv1(images))))
    assert not torch.equal(exact, expected)
    dense = network.forward_features(images, budget=1)
    for _ in range(2):
        with network.at_budget(BUDGET):
            assert torch.equal(getter(images)["last"], expected) and torch.equal(listed(images)[0], expected)
            assert torch.equal(compiled(images)["last"], expected)
        with network.at_budget(1):
            assert torch.equal(getter(images)["last"], dense) and torch.equal(compiled(images)["last"], dense)


@torch.inference_mode()
def test_dense_features_that_nobody_asked_for_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    network, images = network_of("resnet18"), images_of((1, 32, 32))
    getter = IntermediateLayerGetter(network, {"layer4": "last"})
    with caplog.at_level(logging.WARNING):
        network(images), network(images, budget=BUDGET), network(images, return_usage=True)
        network.forward_features(images, budget=1), network.forward_features(images, budget=BUDGET)
        assert not caplog.records
        for _ in range(2):
            network.forward_features(images), getter(images), network.layer1(images.new_zeros(1, 64, 8, 8))
    assert len(caplog.records) == 1
    assert "run densely" in caplog.text and "network.at_budget(0.5)" in caplog.text


def test_what_is_asked_ends_with_the_block_and_is_for_one_thread() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    seen: dict[str, Tensor] = {}
    with torch.inference_mode():
        dense, expected = network(images), network(images, budget=BUDGET)
        with pytest.raises(KeyError), network.at_budget(BUDGET):
            raise KeyError
        assert torch.equal(network(images), dense)
        other = network_of("cifar_resnet14")
        alone = other(images)
        with network.at_budget(BUDGET):
            with network.at_budget(BUDGETS[1]):
                network(images)
            assert torch.equal(network(images), expected) and torch.equal(other(images), alone)

            def elsewhere() -> None:
                with torch.inference_mode():
                    seen["logits"] = network(images)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
    assert torch.equal(seen["logits"], dense)


def test_what_cannot_be_is_said() -> None:
    network, images = network_of("resnet18"), images_of((1, 32, 32))
    with pytest.raises(UserError, match="0.5 was not trained"):
        network.forward_features(images, budget=0.5)
    with pytest.raises(UserError, match="torch.fx cannot trace a network whose budget is an argument"):
        create_feature_extractor(network, ["layer4"])
    network.train().set_grad_checkpointing(True)
    with pytest.raises(UserError, match="gradient checkpointing cannot repeat"):
        network.forward_features(images, budget=BUDGET)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_checkpointed_dense_training_is_as_before(name: str, caplog: pytest.LogCaptureFixture) -> None:
    network, images = network_of(name), images_of((2, 32, 32))
    gradients = []
    for enabled in (False, True):
        network.zero_grad()
        network.set_grad_checkpointing(enabled)
        network.train()(images).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize("execution", ["masked", "sparse"])
@torch.inference_mode()
def test_a_backbone_extrapolates_where_it_is_asked_to_and_counts_its_masks(execution: str) -> None:
    images = images_of((2, 64, 64))
    backbone = bdsa.create_model("resnet10t", BUDGETS, features_only=True, out_indices=(1, 2)).eval()
    bdsa.calibrate_curves(backbone.body, [images])
    backbone.execution = execution
    with pytest.raises(UserError, match="extrapolate=True"):
        backbone(images, budget=0.38)
    assert backbone(images, budget=0.38, extrapolate=True)[-1].shape[0] == 2
    _, usage = backbone(images, budget=0.4, return_usage=True)
    with pytest.raises(ValueError, match="1 masks for 2 blocks"):
        backbone(images, budget=0.4, masks=usage.masks[:1])
    with pytest.raises(UserError, match="feature maps know no latency_ms: they take budget, "):
        backbone(images, latency_ms=20)
