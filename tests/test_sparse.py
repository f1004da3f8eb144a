"""Sparse execution gives what masked execution gives, computes what is accounted for, and leaves the weights alone."""
from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

import bdsa
from bdsa.method.masks import MaskUnit
from bdsa.method.norms import BatchStatistics
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.usage import Request
from bdsa.sparse import auto, build, native, operators, reference
from bdsa.sparse.execution import break_even, executor_of, use_break_even
from bdsa.sparse.folded_block import folded_block
from bdsa.sparse.packing import pack, rows_first

BUDGETS = [0.4, 0.7]
# Every block type, stride and shortcut; channel counts that fill no vector, panel or tile.
NETWORKS = {
    "cifar_resnet8": {}, "cifar_resnet14": {"shortcut": "B"}, "resnet18": {}, "resnet26": {}, "resnet26d": {},
    "resnext50_32x4d": {}, "convnextv2_atto": {}, "resnet10t": {"down_kernel_size": 3},
    "convnext_atto": {}, "convnext_pico": {"use_grn": False, "conv_mlp": True},
}
WITHOUT_SPARSE_FORM = {"convnext_atto": ({"kernel_sizes": 3}, "a depthwise kernel of (3, 3)"),
                       "resnet26t": ({"act_layer": "silu"}, "activation SiLU")}
SIZES = [(1, 32, 32), (3, 33, 47), (2, 64, 40)]


def network_of(name: str, mask_norm: str = "none", norm_affine: str = "separate", **args) -> AdaptiveNetwork:
    """A network whose norms, scales and mask units are not what they start from."""
    torch.manual_seed(1)
    network = bdsa.create_model(name, BUDGETS, 10, mask_norm=mask_norm, norm_affine=norm_affine, **args).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, BatchStatistics)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            if isinstance(module, MaskUnit):
                module.fc.bias.uniform_(-0.1, 0.1)
            if isinstance(getattr(module, "gamma", None), nn.Parameter):
                module.gamma.uniform_(0.5, 1)
            if isinstance(module, GlobalResponseNorm):
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.1)
    return network


def images_of(size: tuple[int, int, int]) -> Tensor:
    batch, height, width = size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def masks_like(network: AdaptiveNetwork, images: Tensor, kind: str) -> list[Tensor]:
    """Masks of one kind for every block."""
    with torch.inference_mode():
        masks = network(images, budget=BUDGETS[0], return_usage=True)[1].masks
    generator = torch.Generator().manual_seed(3)
    made = []
    for mask in masks:
        if kind == "one position":
            new = torch.zeros_like(mask)
            new[-1, 0, mask.shape[2] - 1, mask.shape[3] // 2] = True
        else:
            share = {"empty": 0.0, "full": 1.1, "scattered": 0.3}[kind]
            new = torch.rand(mask.shape, generator=generator) < share
        made.append(new)
    return made


def both(network: AdaptiveNetwork, images: Tensor, budget: float, masks: list[Tensor] | None = None):
    """(logits, usage) of masked and of sparse execution."""
    with torch.inference_mode():
        network.execution = "masked"
        expected = network(images, budget=budget, return_usage=True, masks=masks)
        network.execution = "sparse"
        found = network(images, budget=budget, return_usage=True, masks=masks)
    return expected, found


def assert_same(expected, found) -> None:
    (logits, usage), (sparse_logits, sparse_usage) = expected, found
    spread = logits.max() - logits.min()
    assert (logits - sparse_logits).abs().max() < 1e-4 * spread
    assert all(torch.equal(a, b) for a, b in zip(usage.masks, sparse_usage.masks, strict=True))
    assert torch.equal(usage.macs, sparse_usage.macs)
    assert torch.equal(usage.conditional_fraction, sparse_usage.conditional_fraction)
    for a, b in zip(usage.mask_logits, sparse_usage.mask_logits, strict=True):
        assert (a - b).abs().max() < 1e-4 * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_the_masked_logits_masks_and_costs(name: str, size: tuple[int, int, int]) -> None:
    network, images = network_of(name, **NETWORKS[name]), images_of(size)
    for budget in (*BUDGETS, BUDGETS[0]):  # budgets change from call to call
        assert_same(*both(network, images, budget))


@pytest.mark.parametrize("kind", ["empty", "full", "one position", "scattered"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_the_same_for_masks_of_every_kind(name: str, kind: str) -> None:
    network, images = network_of(name, **NETWORKS[name]), images_of((2, 35, 49))
    assert_same(*both(network, images, BUDGETS[0], masks_like(network, images, kind)))


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
    assert len(kept) == (3 if native.missing() is None else 0)
    with pytest.raises(ValueError, match="a given mask is"):
        with torch.inference_mode():
            network(small, budget=BUDGETS[0], masks=[m[..., :-1] for m in masks])


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


@pytest.mark.parametrize("norms", [{"mask_norm": "batch"}, {"norm_affine": "shared"}], ids=str)
def test_it_folds_every_norm(norms: dict[str, str]) -> None:
    for name in ("cifar_resnet8", "resnet26"):
        network = network_of(name, **norms)
        assert_same(*both(network, images_of((2, 32, 32)), BUDGETS[1]))


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet26", "convnext_atto"])
def test_it_computes_the_macs_that_are_accounted_for(name: str) -> None:
    network, images = network_of(name), images_of((2, 40, 56))
    masks = masks_like(network, images, "scattered")
    _, (_, usage) = both(network, images, BUDGETS[0], masks)
    executed = 0
    for block, rows in zip(network.adaptive_blocks(), executor_of(network, "b040").rows, strict=True):
        at_dilated, at_mask = rows.tolist()
        macs_dilated, macs_masked = block.macs_per_position()
        executed += at_dilated * macs_dilated + at_mask * macs_masked
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


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_gives_the_same_with_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for name in ("cifar_resnet8", "resnet26", "convnext_atto"):
            assert_same(*both(network_of(name), images_of((3, 64, 48)), BUDGETS[0]))
    finally:
        torch.set_num_threads(before)


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


@pytest.mark.parametrize("name, args, reason", [(n, *case) for n, case in WITHOUT_SPARSE_FORM.items()])
def test_what_has_no_sparse_form_runs_masked(name: str, args: dict, reason: str) -> None:
    network, images = network_of(name, **args), images_of((1, 64, 64))
    assert_same(*both(network, images, BUDGETS[0]))
    assert reason in executor_of(network, "b040").masked_because()


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
                    expected, found = module.masked(x, mask, "b040"), folded_block(module, "b040").masked(x, mask, "b040")
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


@pytest.mark.parametrize("times, level, expected", [
    ([1, 2, 3], 4, auto.ALWAYS), ([1, 2, 3], 1, auto.NEVER), ([1, 2, 4], 3, 0.75), ([1, 2, 4], 1.5, 0.25)])
def test_break_even_is_where_the_times_cross(times: list[float], level: float, expected: float) -> None:
    assert auto.crossing(auto.DENSITIES, times, level) == expected


@pytest.mark.parametrize("choice", ["avx2", "plain", "off"])
def test_other_builds_and_the_pure_torch_path_give_the_same(choice: str) -> None:
    """In processes of their own: the kernels are chosen when they are first needed."""
    if choice == "avx2" and "avx2" not in build._processor_flags():
        pytest.skip("this processor has no AVX2")
    code = ("import tests.test_sparse as t\nfrom bdsa.sparse import native\n"
            "for n in ('cifar_resnet8', 'resnet26d', 'resnext50_32x4d', 'convnext_atto', 'convnextv2_atto'):\n"
            "    t.assert_same(*t.both(t.network_of(n), t.images_of((2, 41, 35)), t.BUDGETS[0]))\n"
            "print('kernels:', native.missing() or native.description())")
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root,
                          env={**os.environ, "BDSA_KERNELS": choice, "PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    expected = {"avx2": "AVX2", "plain": "plain", "off": "BDSA_KERNELS=off"}[choice]
    assert f"kernels: {expected}" in done.stdout or native.missing()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    def ask(**environment: str) -> str:
        done = subprocess.run([sys.executable, "-c", "from bdsa.sparse import native; print(native.missing())"],
                              capture_output=True, text=True, env={**os.environ, **environment})
        return done.stdout + done.stderr.strip().rpartition("\n")[2]

    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    broken.chmod(0o755)
    cache = {"BDSA_CACHE": str(tmp_path)}
    assert "no C++ compiler (no-such-compiler)" in ask(CXX="no-such-compiler", **cache)
    assert "could not build the kernels: no such instruction" in ask(CXX=str(broken), **cache)
    assert "did you mean 'plain'" in ask(BDSA_KERNELS="plane")


def test_the_operators_are_seen_by_the_profiler() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.execution = "sparse"
    with torch.inference_mode(), torch.profiler.profile() as profiler:
        network(images, budget=0.4)
    assert {"bdsa::basic", "bdsa::unit"} <= {e.key for e in profiler.key_averages()}


@pytest.mark.skipif(native.missing() is not None, reason="needs the native kernels")
def test_native_and_reference_operators_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 11, 40, generator=generator)
    matrix = pack(rows_first(torch.randn(24, 40, 3, 3, generator=generator)), torch.rand(24), native.panel())
    mask = torch.rand(2, 5, 6, generator=generator) < 0.5
    logits = torch.empty(2, 5, 6)
    for name, arguments in {"pad": (x.new_empty(2, 13, 15, 40), x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3), 2),
                            "mean": (x.new_empty(2, 1, 1, 40), x), "subsample": (x.new_empty(2, 5, 6, 64), x, mask, 2, 9),
                            "average_pool": (x.new_empty(2, 5, 6, 40), x, 2, 2),
                            "unit": (logits, mask, x, torch.randn(9, 40), torch.randn(40), 0.3, 2),
                            "convolution_pool": (x.new_empty(2, 2, 3, 24), x, matrix.weight, matrix.bias, 2, "relu"),
                            "layer_norm": (x.clone(), torch.rand(40), torch.rand(40), 1e-6)}.items():
        expected, found = [copy.deepcopy(arguments) for _ in range(2)]
        getattr(reference, name)(*expected)
        getattr(operators, name)(*found)
        assert torch.allclose(expected[0], found[0], atol=1e-5), name
