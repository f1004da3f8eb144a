"""Sparse execution gives what masked execution gives, and computes what is accounted for."""
from __future__ import annotations

import copy

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, SIZES, assert_same, both, images_of, kept_network, masks_like, network_of
from torch import Tensor

from bdsa.models.network import AdaptiveNetwork
from bdsa.models.usage import Request
from bdsa.sparse import native, operators, reference
from bdsa.sparse.execution import executor_of
from bdsa.sparse.packing import pack, rows_first


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_the_masked_logits_masks_and_costs(name: str, size: tuple[int, int, int]) -> None:
    network, images = kept_network(name), images_of(size)
    for budget in (*BUDGETS, BUDGETS[0]):  # budgets change from call to call
        assert_same(*both(network, images, budget))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty", "full", "one position", "scattered"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_the_same_for_masks_of_every_kind(name: str, kind: str) -> None:
    network, images = kept_network(name), images_of((2, 35, 49))
    assert_same(*both(network, images, BUDGETS[0], masks_like(network, images, kind)))


@pytest.mark.parametrize("norms", [{"mask_norm": "batch"}, {"norm_affine": "shared"}], ids=str)
def test_it_folds_every_norm(norms: dict[str, str]) -> None:
    for name in ("cifar_resnet8", "resnet26"):
        network = network_of(name, **norms)
        assert_same(*both(network, images_of((2, 32, 32)), BUDGETS[1]))


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet26", "convnext_atto", "resnet26 submanifold"])
def test_it_computes_the_macs_that_are_accounted_for(name: str) -> None:
    network, images = network_of(name, **NETWORKS[name]), images_of((2, 40, 56))
    masks = masks_like(network, images, "scattered")
    _, (_, usage) = both(network, images, BUDGETS[0], masks)
    executed = 0
    for block, rows in zip(network.adaptive_blocks(), executor_of(network, "b040").rows, strict=True):
        at_dilated, at_mask = rows.tolist()
        macs_dilated, macs_masked = block.macs_per_position()
        executed += at_dilated * macs_dilated + at_mask * macs_masked
        assert not (block.submanifold and at_dilated)
    conditional = sum(float(f.sum()) * t for f, t in zip(usage.block_fractions.T, totals(network, images)))
    assert executed == pytest.approx(conditional, rel=1e-12) and executed > 0


def totals(network: AdaptiveNetwork, images: Tensor) -> list[int]:
    """Conditional MACs an image of every dense block."""
    found = []
    with torch.inference_mode():
        x = images
        for module in network.trunk():
            if module in network.adaptive_blocks():
                x, used = module.run(x, Request(None))
                found.append(used.total)
            else:
                x = module(x)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_gives_the_same_with_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for name in ("cifar_resnet8", "resnet26", "convnext_atto", "cifar_resnet8 submanifold", "resnet26 submanifold"):
            assert_same(*both(network_of(name, **NETWORKS[name]), images_of((3, 64, 48)), BUDGETS[0]))
    finally:
        torch.set_num_threads(before)


def test_the_operators_are_seen_by_the_profiler() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.execution = "sparse"
    with torch.inference_mode(), torch.profiler.profile() as profiler:
        network(images, budget=0.4)
    assert {"bdsa::basic", "bdsa::unit"} <= {e.key for e in profiler.key_averages()}


@pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
def test_native_and_reference_operators_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 11, 40, generator=generator)
    matrix = pack(rows_first(torch.randn(24, 40, 3, 3, generator=generator)), torch.rand(24), native.form())
    mask = torch.rand(2, 5, 6, generator=generator) < 0.5
    logits = torch.empty(2, 5, 6)
    turned = x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    for name, arguments in {"pad": (x.new_empty(2, 13, 15, 40), turned, 2),
                            "mean": (x.new_empty(2, 1, 1, 40), x),
                            "subsample": (x.new_empty(2, 5, 6, 64), x, mask, 2, 9),
                            "average_pool": (x.new_empty(2, 5, 6, 40), x, 2, 2),
                            "unit": (logits, mask, x, torch.randn(9, 40), torch.randn(40), 0.3, 2),
                            "convolution_pool": (x.new_empty(2, 2, 3, 24), x, matrix.weight, matrix.bias, 2, "relu"),
                            "layer_norm": (x.clone(), torch.rand(40), torch.rand(40), 1e-6)}.items():
        expected, found = [copy.deepcopy(arguments) for _ in range(2)]
        getattr(reference, name)(*expected)
        getattr(operators, name)(*found)
        assert torch.allclose(expected[0], found[0], atol=1e-5), name
