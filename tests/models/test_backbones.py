"""Networks that give feature maps, dilated networks, and images of any size: masked, sparse and played again."""
from __future__ import annotations

import pytest
import timm
import torch
from sparse_cases import BUDGETS, images_of, network_of
from torch import nn

import bdsa
from bdsa.models.feature_network import FeatureNetwork

BUDGET = BUDGETS[0]
BACKBONES = [("resnet18", {}, None), ("resnet26", {}, (1, 2, 3, 4)), ("convnext_atto", {}, (0, -1)),
             ("resnet18", {"output_stride": 8}, (-2, -1)), ("convnext_atto", {"output_stride": 16}, None),
             ("cifar_resnet8", {}, (1,))]


def backbone(name: str, arguments: dict, out_indices) -> FeatureNetwork:
    return FeatureNetwork(network_of(name, **arguments), out_indices).eval()


def largest_gap(one, other) -> float:
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name, arguments, out_indices", BACKBONES)
@torch.inference_mode()
def test_maps_are_timms_and_the_same_in_every_execution(name, arguments, out_indices):
    network, images = backbone(name, arguments, out_indices), images_of((2, 67, 93))
    dense = network(images)
    body = network.body
    assert all(torch.equal(a, b) for a, b in
               zip(dense, body.forward_intermediates(images, list(network.out_indices), intermediates_only=True,
                                                     budget=1), strict=True))
    assert [m.shape[1] for m in dense] == network.feature_info.channels()
    assert [-(-67 // m.shape[2]) <= r for m, r in zip(dense, network.feature_info.reduction())]
    maps, usage = network(images, budget=BUDGET, return_usage=True)
    assert (usage.macs < network.dense_macs((67, 93))).all()
    network.execution = "sparse"
    sparse, sparse_usage = network(images, budget=BUDGET, return_usage=True)
    assert largest_gap(maps, sparse) < 1e-4 and torch.equal(usage.macs, sparse_usage.macs)
    for _ in range(2):  # the second is played
        assert largest_gap(maps, network(images, budget=BUDGET)) < 1e-4
        assert largest_gap(dense, network(images)) < 1e-4
        assert largest_gap(maps, network(images * 1, budget=BUDGET)) < 1e-4
    network.execution = "auto"
    assert largest_gap(maps, network(images, budget=BUDGET)) < 1e-4
    masks = [torch.zeros_like(m) for m in usage.masks]
    empty = network(images, budget=BUDGET, masks=masks)
    network.execution = "masked"
    assert largest_gap(network(images, budget=BUDGET, masks=masks), empty) < 1e-4


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18", "convnext_atto"])
@torch.inference_mode()
def test_timms_feature_methods_are_sparse_too(name):
    network, images = network_of(name), images_of((1, 64, 52))
    features, (last, maps) = (f(images, budget=BUDGET) for f in (network.forward_features,
                                                                  network.forward_intermediates))
    network.execution = "sparse"
    for _ in range(2):
        assert largest_gap([features], [network.forward_features(images, budget=BUDGET)]) < 1e-4
        sparse_last, sparse_maps = network.forward_intermediates(images, budget=BUDGET)
        assert largest_gap([last, *maps], [sparse_last, *sparse_maps]) < 1e-4
        with network.at_budget(BUDGET):
            only = network.forward_intermediates(images, indices=[-1], intermediates_only=True)
        assert largest_gap(maps[-1:], only) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [("resnet18", (512, 1024)), ("resnet18", (333, 517)),
                                        ("convnext_atto", (333, 517))])
@torch.inference_mode()
def test_large_images_that_no_stride_divides(name, size):
    network, images = backbone(name, {}, None), torch.randn(1, 3, *size)
    maps = network(images, budget=BUDGET)
    network.execution = "sparse"
    assert largest_gap(maps, network(images, budget=BUDGET)) < 1e-4


def test_it_trains_inside_of_others_and_is_kept(tmp_path):
    network = bdsa.create_model("resnet18", BUDGETS, features_only=True, out_indices=(2, 3))
    images = images_of((2, 64, 64))
    head = nn.Conv2d(network.feature_info.channels()[-1], 2, 1)
    model = nn.ModuleDict({"backbone": network, "head": head})
    objective = bdsa.Objective(model)
    with objective.asking(BUDGET, 1, 10) as used:
        task = model["head"](model["backbone"](images)[-1]).square().mean()
    usage = used.usage
    losses = objective(task, usage, BUDGET, 1, 10)
    losses["total"].backward()
    assert len(usage.masks) == 6  # of eight blocks; the last stage does not run
    assert network.body.layer1[0].mask_units["b040"].conv.weight.grad is not None
    bdsa.calibrate(model, [images], call=lambda batch: model["backbone"](batch))
    again = bdsa.load(bdsa.save(network, tmp_path / "backbone.safetensors"))
    assert isinstance(again, FeatureNetwork) and again.out_indices == (2, 3)
    network.eval()
    with torch.inference_mode():
        assert largest_gap(network(images, budget=BUDGET), again(images, budget=BUDGET)) < 1e-4


def test_a_pretrained_looking_body_is_timms(tmp_path):
    torch.save(timm.create_model("resnet18", num_classes=7).state_dict(), tmp_path / "dense.pt")
    network = bdsa.create_model("resnet18", BUDGETS, 7, weights=tmp_path / "dense.pt", features_only=True)
    assert not any(key.startswith("body.fc") for key in network.state_dict())
    state = torch.load(tmp_path / "dense.pt")
    assert torch.equal(network.body.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("arguments, said", [
    (dict(features_only=True, out_indices=(7,)), r"out_indices=\(7,\) are not among the 5 stages"),
    (dict(out_indices=(1,)), "needs features_only=True"), (dict(output_stride=4), "output_stride=4 is none of")])
def test_what_cannot_be_is_said(arguments, said):
    with pytest.raises(bdsa.UserError, match=said):
        bdsa.create_model("resnet18", BUDGETS, **arguments)
