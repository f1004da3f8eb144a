"""Inference in int8: ranges measured on images, blocks that multiply bytes, and what stays in bfloat16."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from int8_cases import results
from sparse_cases import BUDGETS, NETWORKS, SIZES, images_of, logits_of, masks_like, network_of

import bdsa
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import native, operators, reference_int8
from bdsa.sparse.execution import executor_of
from bdsa.sparse.precision import distance
from bdsa.sparse.quantised import Int8ConvNeXt, Int8Residual

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
NAMES = ("cifar_resnet8", "cifar_resnet14", "resnet26", "resnet26d", "convnext_atto",
         "resnet26 submanifold")


def test_ranges_are_measured_of_a_network_that_is_to_run_as_a_cascade() -> None:
    network = network_of("cifar_resnet8").train()
    network.layer1[0].bn1.eval()
    network.cascade = True
    assert bdsa.quantize(network, images_of((2, 32, 32))) and network.cascade
    assert network.training and not network.layer1[0].bn1.training


def test_a_backbone_that_ends_early_has_the_ranges_of_its_layers() -> None:
    backbone = bdsa.create_model("resnet18", BUDGETS, features_only=True, out_indices=(1, 2)).eval()
    ranges = bdsa.quantize(backbone, images_of((2, 64, 64)))
    assert ranges and {name.split(".")[0] for name in ranges} == {"layer1", "layer2"}


def quantized(name: str) -> AdaptiveNetwork:
    network = network_of(name, **NETWORKS[name])
    bdsa.quantize(network, images_of((2, 64, 64)))
    return network


@torch.inference_mode()
def test_ranges_that_are_assigned_or_changed_are_seen() -> None:
    network, images = quantized("cifar_resnet8"), images_of((1, 32, 32))
    network.execution, network.precision = "sparse", "int8"
    before = network(images, budget=0.4)
    network.ranges = {name: (low / 4, high / 4) for name, (low, high) in network.ranges.items()}
    narrow = network(images, budget=0.4)
    assert not torch.equal(narrow, before)
    assert torch.equal(narrow, copy.deepcopy(network)(images, budget=0.4))
    for name, (low, high) in network.ranges.items():
        network.ranges[name] = (4 * low, 4 * high)
    assert torch.equal(network(images, budget=0.4), before)


def test_blocks_give_what_pytorch_gives_to_the_last_bit() -> None:
    for found, expected, rows, wanted in results():
        assert torch.equal(found, expected) and rows == wanted
        assert expected.float().std() > 1


@pytest.mark.parametrize("name", NAMES)
def test_networks_give_the_logits_of_their_reference_and_nearly_those_of_float32(
        name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = quantized(name), images_of(SIZES[1])
    masks = masks_like(network, images, "scattered")
    exact = logits_of(network, images, "masked", "float32", masks)
    found = logits_of(network, images, "sparse", "int8", masks)
    assert 0 < distance(found, exact) < 0.06
    for operator in ("residual_int8", "convnext_int8"):
        monkeypatch.setattr(operators, operator, getattr(reference_int8, operator))
    with torch.inference_mode():  # with usage nothing is recorded
        expected, _ = network(images, budget=BUDGETS[0], masks=masks, return_usage=True)
    assert distance(found, expected) < 0.01


def test_it_needs_ranges_and_leaves_all_else_as_it_was() -> None:
    network, images = network_of("cifar_resnet8"), images_of(SIZES[0])
    with pytest.raises(UserError, match=r"bdsa\.quantize"):
        network.precision = "int8"
    for wrong, said in (([], "nothing to measure ranges on"), ("images", "is a str in which no images"),
                        (torch.rand(2, 1, 32, 32), "takes images of 3 channels")):
        with pytest.raises(UserError, match=said):
            bdsa.quantize(network, wrong)
    network.execution, found = "sparse", {}
    network.train().bn1.eval()
    modes = [module.training for module in network.modules()]
    before = {name: t.clone() for name, t in network.state_dict().items()}
    network.eval()
    with torch.inference_mode():
        for precision in ("float32", "bfloat16"):
            network.precision = precision
            found[precision] = network(images, budget=0.4)
        for module, mode in zip(network.modules(), modes):
            module.training = mode
        bdsa.quantize(network, [(images, torch.zeros(1)), (images, torch.zeros(1))])
        assert [module.training for module in network.modules()] == modes
        assert (network.execution, network.precision) == ("sparse", "bfloat16")
        network.eval()
        for network.precision in ("int8", "float32", "bfloat16"):
            again = network(images, budget=0.4)
            assert network.precision == "int8" or torch.equal(again, found[network.precision])
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_decisions_are_those_of_mask_units_on_its_own_maps_and_a_batch_changes_nothing() -> None:
    network, images = quantized("resnet26"), images_of((4, 64, 64))
    network.execution, network.precision = "sparse", "int8"
    with torch.inference_mode():
        whole, usage = network(images, budget=BUDGETS[0], return_usage=True)
        one_by_one = torch.cat([network(x[None], budget=BUDGETS[0]) for x in images])
        played = network(images, budget=BUDGETS[0])
        network(images, budget=1.0)
    assert torch.equal(played, whole) and distance(one_by_one, whole) < 1e-5
    assert all(0 < float(mask.float().mean()) < 1 for mask in usage.masks[:4])


@pytest.mark.parametrize("name", ["resnext50_32x4d", "convnextv2_atto"])
def test_what_has_no_int8_form_is_said_or_runs_in_bfloat16(name: str) -> None:
    with pytest.raises(UserError, match="no layer of this network has an int8 form"):
        bdsa.quantize(network_of(name), images_of(SIZES[0]))


def test_blocks_without_ranges_run_in_bfloat16() -> None:
    network = quantized("cifar_resnet8")
    first = network.adaptive_blocks()[0]
    names = {module: name for name, module in network.named_modules()}
    network.ranges = {name: ends for name, ends in network.ranges.items() if name != names[first.conv1]}
    network.execution, network.precision = "sparse", "int8"
    executor = executor_of(network, "0.4")
    int8 = [isinstance(step.plan, (Int8Residual, Int8ConvNeXt)) for step in executor.blocks()]
    assert int8 == [False, True, True] and executor.dtype == torch.bfloat16


def test_files_carry_ranges(tmp_path: Path) -> None:
    network = quantized("cifar_resnet8")
    loaded = bdsa.load(bdsa.save(network, tmp_path / "network.safetensors"))
    assert loaded.ranges == network.ranges
    assert copy.deepcopy(network).ranges == network.ranges
    loaded.execution = network.execution = "sparse"
    loaded.precision = network.precision = "int8"
    with torch.inference_mode():
        assert torch.equal(loaded(images_of(SIZES[0]), budget=0.4), network(images_of(SIZES[0]), budget=0.4))
    network.ranges = {"conv1": (1.0, 2.0)}
    with pytest.raises(UserError, match="the range of 'conv1'|range of conv1"):
        bdsa.save(network, tmp_path / "other.safetensors")
