"""What a latency benchmark times is what it says: masks, the dense copy, turns, profiles, and what times lead to."""
from __future__ import annotations

import copy

import pytest
import torch
from network_cases import adaptive, images_of, perturb
from timm.models.resnet import BasicBlock
from torch import nn

from bdsa.budgets import Budget
from bdsa.commands.benchmark.break_even import break_evens, in_words
from bdsa.commands.benchmark.profile import ELSEWHERE, labelled, profile_budget
from bdsa.commands.benchmark.synthetic_masks import block_shapes, synthetic_masks
from bdsa.commands.benchmark.ways import against_each_way
from bdsa.commands.benchmark.ways import as_markdown as ways_as_markdown
from bdsa.commands.benchmark.ways import in_words as ways_in_words
from bdsa.models.dense_copy import dense_copy, fold_batch_norms
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import native
from bdsa.sparse.execution import precision_taken
from bdsa.sparse.executors import executors_of
from bdsa.sparse.latency import time_engines
from bdsa.training.curves import calibrate_curves


@pytest.mark.parametrize("name, size", [("cifar_resnet20", (32, 32)), ("resnet50", (64, 96)),
                                        ("convnext_atto", (61, 96))])
def test_synthetic_masks_cost_the_budget_in_every_block_and_image(name, size):
    network = adaptive(name)
    shapes = block_shapes(network, size)
    for budget in network.budgets:
        masks = synthetic_masks(shapes, budget, images=3)
        with torch.inference_mode():
            _, usage = network(torch.zeros(3, 3, *size), budget=budget, masks=masks, return_usage=True)
        assert all(torch.equal(a, b) for a, b in zip(usage.masks, masks, strict=True))
        for shape, fractions in zip(shapes, usage.block_fractions.T, strict=True):
            dilated, masked = shape.block.macs_per_position()
            total = shape.output[0] * shape.output[1] * masked + dilated * shape.block.dilated_positions(
                torch.empty(1, 1, *shape.input), torch.empty(1, 1, *shape.output))
            one_position = (9 * dilated + masked) / total       # at most: with all neighbours
            assert float((fractions - budget).abs().max()) <= 0.5 * one_position + 1e-9


def test_synthetic_masks_follow_from_the_seed_and_are_blobs():
    shapes = block_shapes(adaptive("cifar_resnet20"), (32, 32))
    few, more, wide = (synthetic_masks(shapes, b, images=n, seed=5) for b, n in ((0.3, 2), (0.3, 4), (0.6, 4)))
    assert all(torch.equal(a, b[:2]) for a, b in zip(few, more, strict=True))   # whatever the batch
    assert all(bool((a <= b).all()) for a, b in zip(more, wide, strict=True))   # a larger budget adds positions
    assert not torch.equal(few[0], synthetic_masks(shapes, 0.3, images=2, seed=6)[0])
    assert not torch.equal(more[0][0], more[0][1]) and not torch.equal(more[0], more[1])

    def alike(masks):  # share of neighbours that agree; 0.66 for as many positions strewn at random
        return float((masks[:, :, :, 1:] == masks[:, :, :, :-1]).float().mean())
    assert alike(more[0]) > 0.85 > alike(synthetic_masks(shapes, 0.3, images=4, blob=0.0)[0])


@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet26d", "convnext_atto"])
def test_the_dense_copy_is_plain_timm_and_folding_keeps_its_logits(name):
    x = images_of((64, 64))
    network = perturb(adaptive(name), x)
    with torch.inference_mode():
        expected = network(x)
        plain = dense_copy(network)
        assert torch.equal(plain(x), expected) and not any(".per_budget." in k or "mask_units" in k
                                                           for k in plain.state_dict())
        assert not any(type(m).__module__.startswith("bdsa.m") and "Adaptive" in type(m).__name__
                       for m in plain.modules())
        folded = fold_batch_norms(plain)
        if name == "convnext_atto":
            assert folded is None
            return
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        assert torch.allclose(folded(x), expected, atol=1e-4 * float(expected.abs().max()))
        assert any(type(m) is BasicBlock or "Bottleneck" in type(m).__name__ for m in plain.modules())
        assert torch.equal(network(x), expected) and network.budgets.adaptive


def test_engines_take_turns_and_go_through_the_inputs():
    seen = []
    ms = time_engines({n: lambda i, n=n: seen.append((n, i)) for n in "ab"}, inputs=3, rounds=2, seconds=1e-5)
    assert [len(v) for v in ms.values()] == [2, 2] and all(v > 0 for each in ms.values() for v in each)
    for name in "ab":
        inputs = [i for n, i in seen if n == name]
        assert inputs == [k % 3 for k in range(len(inputs))] and len(inputs) >= 3 + 4
    order = [n for k, (n, _) in enumerate(seen) if k == 0 or seen[k - 1][0] != n]
    assert "".join(order) == "ab" * 4                           # made ready, a round to warm up, and two


@pytest.mark.parametrize("execution", ["masked", "sparse"])
def test_a_profile_finds_every_block_and_its_macs(execution):
    x = images_of((32, 32), batch=2)
    network = perturb(adaptive("cifar_resnet20"), x)
    with torch.inference_mode():
        _, usage = network(x, budget=0.3, return_usage=True)
    found = profile_budget(network, [x, x], 0.3, execution)
    blocks = [p for p in found["places"] if "macs" in p]
    assert [p["name"] for p in blocks] == [f"layer{s}.{i}" for s in (1, 2, 3) for i in range(3)]
    outside = network.conv1.weight.numel() * 32 * 32 + network.fc.weight.numel()
    ran = float(usage.conditional_fraction.sum()) * (network.dense_macs((32, 32)) - outside)
    assert sum(p["macs"] for p in blocks) == pytest.approx(ran)
    assert all(p["ms"] > 0 and p["kinds"]["mask unit"] > 0 for p in blocks)
    assert any("head" in p["name"] for p in found["places"])
    assert ("sparse branch" in found["kinds"]) == (execution == "sparse")  # it was that execution
    before = set(network.layer1[0].__dict__)
    with labelled(network, 0.3):
        assert ("run" in network.layer1[0].__dict__) == (execution == "masked")
    assert set(network.layer1[0].__dict__) == before - {"run"}


@pytest.fixture(scope="module")
def between() -> AdaptiveNetwork:
    """A network that can be asked for budgets between those that were trained."""
    x = images_of((32, 32), batch=4)
    network = perturb(adaptive("cifar_resnet8"), x)
    calibrate_curves(network, [x])
    return network


@pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
@pytest.mark.parametrize("execution, precision", [("masked", "bfloat16"), ("sparse", "float32")])
@pytest.mark.parametrize("budget", [0.3, 0.42])
def test_a_profile_and_a_precision_are_of_what_runs(between, execution, precision, budget):
    network, x = copy.deepcopy(between), images_of((32, 32), batch=1)
    network.precision = precision
    found = profile_budget(network, [x], budget, execution)
    kinds = {place["name"]: {*place["kinds"]} for place in found["places"]}
    blocks = [f"layer{stage}.0" for stage in (1, 2, 3)]
    assert [name for name in kinds if name.startswith("layer")] == blocks
    assert all("mask unit" in kinds[name] for name in blocks) and ("sparse branch" in found["kinds"]) == (
        execution == "sparse")
    assert kinds.get(ELSEWHERE, set()).isdisjoint({"mask unit", "sparse branch", "dense convolutions"})
    assert precision_taken(network, Budget(budget)) == precision
    assert "b042" not in {key[0] for key in executors_of(network).made}


def test_a_precision_is_that_of_the_maps_where_blocks_run_masked_or_kernels_are_not_here(between, monkeypatch):
    network = copy.deepcopy(between)
    if native.unavailable() is None:
        network.ranges = {"layer1.0.conv1": (0.0, 1.0)}
        network.precision, network.execution = "int8", "masked"
        assert precision_taken(network, Budget(0.3)) == "bfloat16"
    monkeypatch.setattr(native, "unavailable", lambda: "BDSA_KERNELS=off")
    network.precision = "bfloat16"
    for network.execution in ("masked", "sparse"):
        assert precision_taken(network, Budget(0.3)) == "float32"


def test_where_another_way_becomes_the_faster_one():
    rows = [{"precision": p, "density": d, "ms": ms} for p, d, ms in (
        ("float32", 0.2, 10.0), ("bfloat16", 0.2, 4.0), ("float32", 0.4, 20.0), ("bfloat16", 0.4, 6.0),
        ("float32", 1.0, 1.0))]                                 # the dense network goes another way
    probed = [{"precision": p, "density": d, "ms": ms} for p, d, ms in (
        ("float32", 0.8, 40.0), ("float32", None, 30.0), ("bfloat16", None, 5.0))]
    for row in probed:
        row["ran"] = row["precision"]
    fastest = {"any": {"title": "b in bfloat16", "ms": 3.0}, "bfloat16": {"title": "b in bfloat16", "ms": 3.0},
               "float32": {"title": "a in float32", "ms": 50.0}}
    found = break_evens(rows, probed, fastest)
    assert {(c["precision"], c["against"]): c["density"] for c in found} == {
        ("float32", "masked in float32"): pytest.approx(0.6), ("float32", "a in float32"): None,
        ("float32", "b in bfloat16"): 0.0, ("bfloat16", "masked in bfloat16"): pytest.approx(0.3),
        ("bfloat16", "b in bfloat16"): 0.0}
    said = [in_words(c, "sparse") for c in found]
    assert said[0] == "sparse in float32 is slower than masked in float32 from density 0.60"
    assert said[1] == "sparse in float32 is faster than a in float32 up to density 0.80, the largest measured"
    assert said[2] == "sparse in float32 is slower than b in bfloat16 from density 0.20, the smallest measured"


def test_automatic_execution_is_compared_with_the_fastest_way_round_by_round():
    rows = [{"name": "b030", "budget": 0.3, "precision": "float32", "rounds_ms": [6.0, 12.0, 6.0]},
            {"name": "b100", "budget": 1.0, "precision": "float32", "rounds_ms": [6.0, 6.0, 6.0]}]
    timed = [{"name": "b030", "precision": p, "way": f"{way} in {p}", "rounds_ms": ms} for p, way, ms in (
        ("float32", "sparse", [5.0, 10.0, 4.0]), ("float32", "masked", [9.0] * 3), ("bfloat16", "sparse", [1.0] * 3))]
    [compared] = against_each_way(rows, timed)
    assert (compared["way"], compared["ms"]) == ("sparse in float32", 5.0)
    assert compared["longer"] == pytest.approx(0.2), "a round that was slow for both says nothing"
    assert ways_in_words(compared) == ("budget 0.3 in float32: auto takes 20% longer than sparse in float32 alone, the "
                                       "fastest way (5.00 ms)")
    table = ways_as_markdown([{"model": "a", "batch_size": 8, "ways": [compared]}])
    assert table.splitlines()[-1] == "| a | 8 | float32 | 1.20 (sparse in float32) |"
