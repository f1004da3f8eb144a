"""Networks with unusual parts: another classifier or stem, norms without a bias, hooks, pruned weights, huge images."""
from __future__ import annotations

from functools import partial

import pytest
import torch
import torchvision
from sparse_cases import BUDGETS, assert_same, both, images_of, network_of
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn.utils import prune

import bdsa
from bdsa.errors import UserError
from bdsa.sparse import native
from bdsa.sparse.program import program_of
from bdsa.sparse.torch_operator import run_program

needs_kernels = pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
SMALL = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)}


@pytest.fixture
def network():
    made = network_of("cifar_resnet8")
    made.execution = "sparse"
    return made


@needs_kernels
@pytest.mark.parametrize("classes", [3, 100])
@torch.inference_mode()
def test_a_classifier_replaced_by_hand_gives_its_own_number_of_logits(network, classes: int) -> None:
    network.fc = nn.Linear(64, classes).eval()
    images = images_of((3, 32, 32))
    expected = network(images, budget=0.4)
    program = program_of(network)
    assert program.classes == classes == expected.shape[1]
    assert torch.equal(run_program(program, images, 0.4), expected)
    assert torch.equal(bdsa.portable(network)(images, torch.tensor(0.4)), expected)


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_network_with_another_classifier_has_its_width(network) -> None:
    network.fc = nn.Linear(64, 3).eval()
    images = images_of((2, 32, 32))
    compiled = torch.compile(lambda x: network(x, budget=0.4) + torch.arange(3), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(images), network(images, budget=0.4) + torch.arange(3))


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_network_without_a_word_for_its_classifier_is_one_graph() -> None:
    network = torchvision.models.resnet18(num_classes=10)
    bdsa.adapt(network, BUDGETS)
    network.eval()
    network.execution = "sparse"
    images = images_of((1, 64, 64))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(images, budget=0.4), network(images, budget=0.4))


@torch.inference_mode()
def test_maps_of_a_network_without_a_head_stay_as_they_were() -> None:
    network = bdsa.create_model("resnet10t", BUDGETS, 0, global_pool="").eval()
    network.execution = "sparse"
    first, second = images_of((2, 64, 64)).split(1)
    found = network(first, budget=0.4)
    kept = found.clone()
    network(second, budget=0.4)
    assert found.dim() == 4 and torch.equal(found, kept)


@needs_kernels
def test_what_a_program_would_pass_over_is_refused_by_name(network) -> None:
    prune.l1_unstructured(network.layer1[0].conv2, "weight", 0.5)
    with pytest.raises(UserError, match="layer1.0.conv2 has a hook"):
        bdsa.portable(network)
    other = network_of("cifar_resnet8")
    other.layer2.train()
    with pytest.raises(UserError, match="layer2.* is in training mode"):
        program_of(other)
    other.eval()
    other.forward_head = lambda x: x
    with pytest.raises(UserError, match="the head of this"):
        program_of(other)


@pytest.mark.slow
@pytest.mark.parametrize("name, how", [
    ("convnext_atto", {"patch_size": 9, **SMALL}),
    ("convnext_atto", {"conv_mlp": True, "norm_layer": partial(LayerNorm2d, eps=1e-6, bias=False), **SMALL})])
def test_large_stems_and_norms_without_a_bias_give_what_masked_execution_gives(name: str, how: dict) -> None:
    torch.manual_seed(0)
    network = bdsa.create_model(name, BUDGETS, 10, **how).eval()
    images = images_of((2, 75, 82))
    assert_same(*both(network, images, 0.4))
    with torch.inference_mode():
        network.execution = "masked"
        expected = network(images)
        network.execution = "sparse"
        assert (network(images) - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


@torch.inference_mode()
def test_images_too_long_for_the_kernels_run_masked_and_are_refused_by_programs(network) -> None:
    long = torch.randn(1, 3, 4, 2 ** 15, generator=torch.Generator().manual_seed(0))
    assert_same(*both(network, long, 0.4))
    if native.unavailable() is None:
        with pytest.raises(UserError, match="side above 32767 pixels"):
            run_program(program_of(network), long, 0.4)
