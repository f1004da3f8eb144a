"""A network in sparse execution: repeated, changed, with blocks that run masked, and with images that do not fit."""
from __future__ import annotations

import copy
import time

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, SIZES, assert_same, both, images_of, masks_like, network_of

from bdsa.errors import UserError
from bdsa.sparse import auto, native
from bdsa.sparse.execution import break_even, executor_of, forget, use_break_even
from bdsa.sparse.folded_block import folded_block

WITHOUT_SPARSE_FORM = {"convnext_atto": ({"kernel_sizes": 3}, "a depthwise kernel of (3, 3)"),
                       "resnet26t": ({"act_layer": "silu"}, "activation SiLU")}


@pytest.mark.parametrize("name, args, reason", [(n, *case) for n, case in WITHOUT_SPARSE_FORM.items()])
def test_what_has_no_sparse_form_runs_masked(name: str, args: dict, reason: str) -> None:
    network, images = network_of(name, **args), images_of((1, 64, 64))
    assert_same(*both(network, images, BUDGETS[0]))
    assert reason in executor_of(network, "b040").masked_because()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_repeated_inferences_follow_image_masks_budget_and_size(name: str) -> None:
    """Without usage, an inference is recorded once and played from then on."""
    network = network_of(name, **NETWORKS[name])
    small, large = (images_of(size) for size in SIZES[:2])
    cases = [(x + shift, budget) for shift in (0.0, 0.1, -0.2) for budget in BUDGETS for x in (small, large)]
    masks = masks_like(network, small, "scattered")
    for x, budget in cases:
        (expected, _), (_, _) = both(network, x, budget)
        with torch.inference_mode():
            found = network(x, budget=budget)
        assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
    for kind in ("scattered", "full", "empty"):
        masks = masks_like(network, small, kind)
        (expected, _), _ = both(network, small, BUDGETS[0], masks)
        with torch.inference_mode():
            found = network(small, budget=BUDGETS[0], masks=masks)
        assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
    kept = executor_of(network, "b040").workspace.recordings
    assert len(kept) == (3 if native.unavailable() is None else 0)
    with pytest.raises(ValueError, match="a given mask is"), torch.inference_mode():
        network(small, budget=BUDGETS[0], masks=[m[..., :-1] for m in masks])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_dense_network_runs_through_the_same_kernels(name: str) -> None:
    network, images = network_of(name, **NETWORKS[name]), images_of((2, 40, 56))
    with torch.inference_mode():
        expected = network(images)
        for network.execution in ("sparse", "auto"):
            for _ in range(2):
                found = network(images)
                assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
        network(images, budget=BUDGETS[0])
        network.execution = "masked"
        assert torch.equal(network(images), expected)


def test_weights_stay_and_their_changes_are_seen() -> None:
    network, images = network_of("resnet26"), images_of((1, 32, 32))
    before = copy.deepcopy(network.state_dict())
    both(network, images, BUDGETS[0])
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with torch.no_grad():
        network.layer1[0].conv2.weight.mul_(1.5)
        network.layer2[0].bn2.per_budget["b040"].running_mean.add_(0.2)
    assert_same(*both(network, images, BUDGETS[0]))
    network.load_state_dict(before)
    assert_same(*both(network, images, BUDGETS[0]))
    network.load_state_dict({k: v * 0.9 if v.is_floating_point() else v for k, v in before.items()}, assign=True)
    assert_same(*both(network, images, BUDGETS[0]))


def test_an_input_is_left_alone_and_earlier_results_stay() -> None:
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32)).contiguous(memory_format=torch.channels_last)
    network.execution = "sparse"
    before = images.clone()
    with torch.inference_mode():
        first = network(images, budget=0.4, return_usage=True)
        kept = first[0].clone(), [m.clone() for m in first[1].masks]
        network(torch.rand_like(images), budget=0.4)
    assert torch.equal(images, before) and torch.equal(first[0], kept[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1].masks, kept[1]))


def test_an_empty_batch_has_no_logits() -> None:
    for name in ("cifar_resnet8", "resnet26", "convnext_atto"):
        network = network_of(name)
        network.execution = "sparse"
        with torch.inference_mode():
            assert network(images_of((1, 64, 64))[:0], budget=0.4).shape == (0, 10)


def test_images_that_do_not_fit_are_refused() -> None:
    network = network_of("convnext_atto")
    network.execution = "sparse"
    for images, message in ((torch.randn(1, 4, 64, 64), "reads 3 channels"), (torch.randn(1, 3, 16, 16), "too small")):
        with torch.inference_mode(), pytest.raises(ValueError, match=message):
            network(images, budget=0.4)


def test_another_classifier_is_seen() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    assert_same(*both(network, images, BUDGETS[0]))
    network.reset_classifier(7)
    assert_same(*both(network, images, BUDGETS[0]))


def test_training_and_gradients_stay_masked() -> None:
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    network.execution = "sparse"
    network(images, budget=0.4).sum().backward()
    assert network.layer1[0].conv1.weight.grad is not None
    network.train()
    assert network(images, budget=0.4).requires_grad


def test_blocks_may_go_either_way_in_turn() -> None:
    for name in ("resnet26", "convnext_atto"):
        network, images = network_of(name), images_of((2, 48, 48))
        expected, _ = both(network, images, BUDGETS[0])
        executor = executor_of(network, "b040")
        for pattern in (0, 1):
            executor.set_break_even([auto.NEVER if i % 2 == pattern else auto.ALWAYS
                                     for i in range(len(executor.blocks()))])
            with torch.inference_mode():
                features, used = executor(images, None, True)
                logits = network.forward_head(features)
            ran = [rows is None for rows in executor.rows]
            assert ran == [i % 2 == pattern for i in range(len(ran))]
            assert (logits - expected[0]).abs().max() < 1e-4 * (expected[0].max() - expected[0].min())


@pytest.mark.parametrize("norm_affine", ["separate", "shared"])
def test_a_folded_block_is_the_masked_block(norm_affine: str) -> None:
    for name, args in NETWORKS.items():
        network, x = network_of(name, norm_affine=norm_affine, **args), images_of((2, 40, 48))
        before = copy.deepcopy(network.state_dict())
        with torch.inference_mode():
            for module in network.trunk():
                if module in network.adaptive_blocks():
                    mask = (torch.rand(module.mask_units["b040"](x).shape) < 0.5).float()
                    expected, found = (m.masked(x, mask, "b040") for m in (module, folded_block(module, "b040")))
                    assert (expected - found).abs().max() < 1e-4 * (expected.max() - expected.min())
                x = module(x)
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_what_depends_on_the_mask_is_decided_for_every_mask() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    executor = executor_of(network, "b040")
    executor.set_break_even([0.5] * len(executor.blocks()))
    with torch.inference_mode():
        for kind, ran_masked in (("one position", False), ("full", True), ("one position", False)):
            executor.classify(images, masks_like(network, images, kind), False, network.forward_head)
            assert [rows is None for rows in executor.rows] == [ran_masked] * len(executor.blocks())


def test_auto_finds_break_even_points_once_and_keeps_them() -> None:
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    network.execution = "auto"
    with torch.inference_mode():
        network(images, budget=0.4)
        found = break_even(network)
        network(images, budget=0.7)
        network(images[:1], budget=0.7)
    blocks = len(network.adaptive_blocks())
    assert break_even(network) is found
    assert {b: len(d) for b, d in found["blocks"].items()} == {"2": blocks, "1": blocks}
    assert found["threads"] == torch.get_num_threads() and found["image_size"] == [32, 32]
    other = network_of("cifar_resnet8")
    other.execution = "auto"
    kept = {**found, "blocks": {"2": [auto.NEVER] * blocks}}
    use_break_even(other, kept)
    with torch.inference_mode():
        other(images, budget=0.4)
        assert executor_of(other, "b040").rows == [None] * blocks  # as the kept ones say
        other(images_of((2, 40, 40)), budget=0.4)
    assert break_even(other)["image_size"] == [40, 40]  # another size: found anew


def test_break_even_densities_of_another_network_are_refused() -> None:
    network = network_of("cifar_resnet14")
    for blocks, case in ((3, "1"), (3, "1, the first 2 blocks"), (7, "8, the first 7 blocks")):
        with pytest.raises(UserError, match=f"are of {blocks} blocks, and the network has 6"):
            use_break_even(network, {"blocks": {case: [0.5] * blocks}})
    use_break_even(network, {"blocks": {"1": [0.5] * 6, "1, the first 2 blocks": [0.5] * 2}})


@pytest.mark.parametrize("fastest", auto.WHOLE)
def test_where_blocks_differ_the_whole_network_goes_the_way_that_is_fastest(fastest: str) -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    executor, count = executor_of(network, "b040"), len(network.adaptive_blocks())
    densities = [auto.NEVER] + [auto.ALWAYS] * (count - 1)
    executor.set_break_even(auto.applied(fastest, densities))
    wanted = executor.ways
    assert auto.whole_way(executor, densities, lambda: executor.ways == wanted or time.sleep(0.02)) == fastest
    network.execution = "auto"
    with torch.inference_mode():
        network(images, budget=0.4)
        found = break_even(network)
        use_break_even(network, {**found, "blocks": {"1": densities}, "whole": {"1, b040": fastest}})
        forget(network)
        network(images, budget=0.4, return_usage=True)
    ran_masked = {"sparse": 0, "blocks": 1, "masked": count}[fastest]
    assert executor_of(network, "b040").rows.count(None) == ran_masked


@pytest.mark.parametrize("times, level, expected", [
    ([1, 2, 3], 4, auto.ALWAYS), ([1, 2, 3], 1, auto.NEVER), ([1, 2, 4], 3, 0.75), ([1, 2, 4], 1.5, 0.25)])
def test_break_even_is_where_the_times_cross(times: list[float], level: float, expected: float) -> None:
    assert auto.crossing(auto.DENSITIES, times, level) == expected
