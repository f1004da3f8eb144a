"""Submanifold blocks: nothing is computed around a mask, and nothing is paid for there."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import bdsa
from bdsa.errors import UserError
from bdsa.models.checkpoints import ModelSpec, network_content, read_checkpoint, save
from bdsa.models.start import start_from


def network_of(name: str, submanifold: bool = True, **arguments) -> nn.Module:
    torch.manual_seed(0)
    network = bdsa.create_model(name, [0.5], 3, submanifold=submanifold, **arguments).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            nn.init.constant_(module.weight, 0.8)  # a block's last one starts at zero
    return network


def masks_for(network: nn.Module, images: torch.Tensor, share: float) -> list[torch.Tensor]:
    masks = network(images, budget=0.5, return_usage=True)[1].masks
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(mask.shape, generator=generator) < share for mask in masks]


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet26", "torchvision resnet18", "torchvision resnet50"])
def test_with_every_position_active_it_is_the_dense_network(name: str) -> None:
    if name.startswith("torchvision"):
        network = getattr(torchvision.models, name.split()[1])(num_classes=3).eval()
        bdsa.adapt(network, [0.5], submanifold=True)
    else:
        network = network_of(name)
    images = torch.randn(2, 3, 40, 32)
    with torch.inference_mode():
        every = [torch.ones_like(mask) for mask in masks_for(network, images, 1.0)]
        logits, usage = network(images, budget=0.5, masks=every, return_usage=True)
        assert any(block.submanifold for block in network.adaptive_blocks())
        assert torch.equal(logits, network(images, budget=1.0)) and (usage.conditional_fraction == 1).all()
        fewer = network(images, budget=0.5, masks=masks_for(network, images, 0.5))
    assert not torch.equal(logits, fewer)


def test_a_block_pays_for_its_mask_alone_and_reads_zeros_around_it() -> None:
    network, images = network_of("cifar_resnet8"), torch.randn(2, 3, 32, 32)
    masks = masks_for(network, images, 0.3)
    with torch.inference_mode():
        usage = network(images, budget=0.5, masks=masks, return_usage=True)[1]
        around = network_of("cifar_resnet8", submanifold=False)(images, budget=0.5, masks=masks, return_usage=True)[1]
        for i, mask in enumerate(masks):
            assert torch.allclose(usage.block_fractions[:, i], mask.double().mean(dim=(1, 2, 3)), atol=1e-12)
        assert (usage.conditional_fraction < around.conditional_fraction).all()

        block, x = network.layer1[0], torch.randn(1, 16, 8, 8)
        lonely = torch.zeros(1, 1, 8, 8)
        lonely[..., 3, 4] = 1
        hidden = block.bn1(block.conv1(x), "b050").relu()[..., 3, 4]
        residual = block.bn2.per_budget["b050"]((hidden @ block.conv2.weight[..., 1, 1].T)[..., None, None])
        expected = (x[..., 3, 4] + residual[..., 0, 0]).relu()
        assert torch.allclose(block.masked(x, lonely, "b050")[..., 3, 4], expected, atol=1e-5)


def test_bottlenecks_with_a_stride_run_around_their_masks() -> None:
    network = network_of("resnet26")
    assert [block.submanifold for block in network.adaptive_blocks()] == [True, True] + 3 * [False, True]


def test_networks_without_such_a_form_say_so() -> None:
    with pytest.raises(UserError, match="submanifold=true is for basic blocks and bottlenecks of ResNets; "
                                        "convnext_atto has a ConvNeXtBlock"):
        bdsa.create_model("convnext_atto", [0.5], submanifold=True)
    with pytest.raises(UserError, match="submanifold 'false' is neither True nor False"):
        bdsa.create_model("cifar_resnet8", [0.5], submanifold="false")


def test_files_carry_it_and_others_do_not_name_it(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    for submanifold in (True, False):
        network = network_of("cifar_resnet8", submanifold)
        path = bdsa.save(network, tmp_path / f"{submanifold}.safetensors")
        again = bdsa.load(path)
        assert torch.equal(again(images, budget=0.5), network(images, budget=0.5))
        assert read_checkpoint(path)["model"].get("submanifold") is (True if submanifold else None)


def test_a_start_with_other_blocks_keeps_its_weights_and_is_said(tmp_path: Path) -> None:
    stated, wanted = (ModelSpec("cifar_resnet8", 3, [0.5], submanifold=submanifold) for submanifold in (False, True))
    start = stated.build()
    save(tmp_path / "start.pt", network_content(start, stated))
    network = wanted.build()
    (note,) = start_from(network, wanted, tmp_path / "start.pt")
    assert "submanifold=false" in note and network.layer1[0].submanifold
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), start.state_dict().values()))
    dense = ModelSpec("cifar_resnet8", 3, [1.0])
    save(tmp_path / "dense.pt", network_content(dense.build(), dense))
    (note,) = start_from(network, wanted, tmp_path / "dense.pt")
    assert "begins from its dense network" in note
