"""Budgets that were not trained, one an image, and one that no image exceeds: the same in every execution."""
from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import cache
from itertools import cycle

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, assert_same, both, images_of, network_of
from torch import Tensor

from bdsa.errors import UserError
from bdsa.method.curves import Point
from bdsa.method.norms import BudgetNorm
from bdsa.models.feature_network import FeatureNetwork
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import auto, native, precision, reference
from bdsa.sparse.execution import executor_of
from bdsa.training import curves
from bdsa.training.curves import calibrate_curves

SIZE = (4, 33, 47)
CASES = [(name, *rest) for name, rest in zip(NETWORKS, cycle((("none", "separate"), ("batch", "shared"))))]


@cache
def _measured(name: str = "cifar_resnet14", mask_norm: str = "none", affine: str = "separate") -> AdaptiveNetwork:
    network = network_of(name, mask_norm, affine, **NETWORKS[name])
    calibrate_curves(network, [images_of(SIZE)])
    return network


def measured(*case: str) -> tuple[AdaptiveNetwork, Tensor]:
    """A network with curves, and the images that they are of."""
    return copy.deepcopy(_measured(*case)), images_of(SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_sparse_is_masked_at_any_budget(case: tuple[str, str, str]) -> None:
    network, images = measured(*case)
    for budget in (0.47, 0.55, 0.9):
        expected, found = both(network, images, budget)
        assert_same(expected, found)


@torch.inference_mode()
def test_any_budget_is_met_on_the_images_of_the_curve() -> None:
    network, images = measured("cifar_resnet14", "none", "shared")
    for budget in (0.45, 0.55, 0.65, 0.8, 0.95):
        usage = network(images, budget=budget, return_usage=True)[1]
        assert float(usage.conditional_fraction.mean()) == pytest.approx(budget, abs=0.03)


def test_who_serves_between_two_budgets_is_measured() -> None:
    network, images = network_of("cifar_resnet8"), images_of(SIZE)
    norms = [m for m in network.modules() if isinstance(m, BudgetNorm)]
    for each in (*(block.mask_units for block in network.adaptive_blocks()), *(norm.per_budget for norm in norms)):
        each["b040"].load_state_dict(each["b070"].state_dict())
    assert calibrate_curves(network, [images])["b040"].crossover == 1, "the same, whoever serves"
    for norm in norms:
        torch.nn.init.normal_(norm.per_budget["b040"].weight, std=5)
    assert calibrate_curves(network, [images])["b040"].crossover == 0
    assert network.point(0.5).name == network.point(0.6).name == "b070"
    for budget in (0.5, 0.6):
        expected, found = both(network, images, budget)
        assert_same(expected, found)
        assert float(found[1].conditional_fraction.mean()) == pytest.approx(budget, abs=0.03)


@pytest.mark.parametrize(("lower", "crossover"), [
    ((1, 1, 1), 1.0), ((1, 1, 9), 0.625), ((1, 9, 9), 0.375), ((1, 9, 1), 0.375), ((9, 1, 1), 0.0)])
def test_the_next_budget_serves_from_where_it_is_clearly_nearer(lower: tuple[float, ...], crossover: float,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = network_of("cifar_resnet8"), images_of(SIZE)
    upper, measure = 4, curves._answers

    def answers(network: AdaptiveNetwork, batches: list[Tensor], point: Point) -> tuple[Tensor, float]:
        """As far from the upper budget's, which are (0.5, 0.5), as the table says."""
        made, fraction = measure(network, batches, point)
        wrong = lower[round(4 * point.blend.share) - 1] if point.blend else upper if point.offset else 0
        return torch.tensor([float(wrong), 0.0]).log_softmax(0).expand(len(made), 2), fraction

    monkeypatch.setattr(curves, "_answers", answers)
    assert calibrate_curves(network, [images])["b040"].crossover == crossover
    end = network.curves["b040"].serves_to(0.4, 0.7)
    for budget in (0.41, 0.47, 0.5, 0.55, 0.6, 0.65, 0.69):
        point = network.point(budget)
        assert point.name == ("b040" if budget <= end else "b070")
        fraction = network(images, budget=budget, return_usage=True)[1].conditional_fraction.mean()
        assert float(fraction) == pytest.approx(budget, abs=0.03)


@torch.inference_mode()
def test_a_trained_budget_gives_what_it_gave_without_curves() -> None:
    network, images = measured()
    plain = copy.deepcopy(network)
    plain.curves = {}
    for execution in ("masked", "sparse"):
        network.execution = plain.execution = execution
        network(images, budget=0.55)
        for budget in (*BUDGETS, 1.0):
            for _ in range(2):  # the second plays a recording
                assert torch.equal(network(images, budget=budget), plain(images, budget=budget))


@torch.inference_mode()
def test_one_recording_serves_every_offset() -> None:
    network, images = measured()
    network.execution = "sparse"
    asked = (0.4, 0.41, 0.43, 0.4, 0.43)
    outputs = [network(images, budget=budget) for budget in asked]
    fresh = [copy.deepcopy(_measured()) for _ in asked]
    for other, budget, output in zip(fresh, asked, outputs):
        other.execution = "sparse"
        assert torch.equal(other(images, budget=budget), output)
    if native.unavailable() is None:
        assert len(executor_of(network, "b040").workspace.recordings) == 1


@torch.inference_mode()
def test_a_budget_an_image_is_each_image_at_its_own() -> None:
    network, images = measured()
    budgets = [0.7, 0.55, 1.0, 0.55]
    for execution in ("masked", "sparse"):
        network.execution = execution
        logits, usage = network(images, budget=budgets, return_usage=True)
        assert torch.equal(network(images, budget=torch.tensor(budgets)), network(images, budget=budgets))
        for i, budget in enumerate(budgets):
            alone, used = network(images[i:i + 1], budget=budget, return_usage=True)
            assert torch.allclose(logits[i:i + 1], alone, atol=1e-5)
            assert usage.macs[i] == used.macs[0]
            assert all(torch.equal(m[i], n[0]) for m, n in zip(usage.masks, used.masks, strict=True))


def test_budgets_that_are_not_one_an_image_are_refused() -> None:
    network, images = measured()
    with pytest.raises(UserError, match="3 budgets for 4 images"):
        network(images, budget=[0.4, 0.7, 1.0])
    with pytest.raises(UserError, match="0.1 is below 0.4"):
        network(images, budget=[0.4, 0.7, 1.0, 0.1])


@pytest.mark.parametrize("case", [CASES[i] for i in (0, 2, 3, 6, 7, 10)], ids="-".join)
def test_no_image_exceeds_its_budget_in_any_execution(case: tuple[str, str, str]) -> None:
    network, images = measured(*case)
    bare = copy.deepcopy(network)
    bare.curves = {}
    for subject, budgets in ((network, (0.4, 0.55, [0.4, 0.9, 0.55, 0.9])), (bare, BUDGETS)):
        for budget in budgets:
            with torch.inference_mode():
                subject.execution = "masked"
                expected = subject(images, budget=budget, return_usage=True, per_image=True)
                subject.execution = "sparse"
                found = subject(images, budget=budget, return_usage=True, per_image=True)
                again = subject(images, budget=budget, per_image=True)
            assert_same(expected, found)
            assert torch.allclose(again, found[0], atol=1e-5)
            spent = found[1].conditional_fraction
            assert (spent <= torch.as_tensor(budget, dtype=torch.float64)).all()
            if "cifar_resnet8" in case:  # the others' last maps are a few positions, which leaves coins
                assert (spent > torch.as_tensor(budget, dtype=torch.float64) - 0.1).all()


@torch.inference_mode()
def test_the_faster_way_is_found_with_purses_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = measured()
    network.execution = "auto"
    count = len(network.adaptive_blocks())
    mixed = [auto.ALWAYS if i % 2 else auto.NEVER for i in range(count)]  # so that the whole network is timed, too
    monkeypatch.setattr(auto, "calibrate", lambda *_: mixed)
    found = network(images, budget=0.5, per_image=True)
    monkeypatch.setattr(auto, "whole_way", lambda *_: pytest.fail("it was found already"))
    logits, usage = network(images, budget=0.5, return_usage=True, per_image=True)
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)
    assert (usage.conditional_fraction <= 0.5).all()


@torch.inference_mode()
def test_one_recording_serves_every_exact_budget() -> None:
    network, images = measured()
    network.execution = "sparse"
    asked = (0.4, 0.43, 0.4, 0.41)
    outputs = [network(images, budget=budget, per_image=True) for budget in asked]
    for budget, output in zip(asked, outputs):
        logits, usage = network(images, budget=budget, return_usage=True, per_image=True)
        assert torch.allclose(logits, output, atol=1e-5)
        assert (usage.conditional_fraction <= budget).all()
    if native.unavailable() is None:
        assert len(executor_of(network, "b040").workspace.recordings) == 1
    plain = network(images, budget=0.4)
    network.curves = {name: replace(curve, blocks=((0.0,) * len(curve.blocks[0]),) * len(curve.blocks))
                      for name, curve in network.curves.items()}  # others: first blocks may spend all
    assert not torch.allclose(network(images, budget=0.4, per_image=True), outputs[0], atol=1e-3)
    assert torch.equal(network(images, budget=0.4), plain)


@pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
@pytest.mark.parametrize(("size", "wide", "stride", "reach", "macs"), [
    ((12, 9), (12, 9), 1, 1, 2), ((12, 9), (24, 17), 2, 1, 7), ((7, 5), (0, 0), 1, 1, 0), ((8, 8), (8, 8), 1, 2, 4),
    ((1, 1), (1, 1), 1, 1, 3), ((9, 9), (18, 18), 2, 2, 3)])
def test_native_and_reference_purses_agree(size: tuple[int, int], wide: tuple[int, int], stride: int, reach: int,
                                           macs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for case in range(12):
        logits = 3 * torch.randn(5, *size, generator=generator) + torch.randn(5, 1, 1, generator=generator)
        logits = logits.round() if case % 3 == 0 else logits  # equal scores
        whole = 5 * size[0] * size[1] + macs * wide[0] * wide[1]
        points = 1 if case % 4 == 1 else 9
        offsets, ahead = torch.rand(2, points, generator=generator, dtype=torch.float64).cumsum(1)
        start = 1.3 * whole * float(torch.rand((), generator=generator)) if case % 2 else -1.0
        left = whole * torch.rand(5, generator=generator, dtype=torch.float64)
        found = [(torch.empty(5, *size, dtype=torch.bool), left.clone()) for _ in range(2)]
        for purses, kernels in zip(found, (native, reference)):
            kernels.exact(*purses, logits, 5, macs, *wide, stride, reach, offsets, ahead * size[0], start, 0.7, 0.2)
        assert all(map(torch.equal, *found))


@torch.inference_mode()
def test_features_too_can_be_those_that_no_image_exceeds() -> None:
    network, images = measured()
    stages = FeatureNetwork(network, out_indices=(0, 1)).eval()
    for execution in ("masked", "sparse"):
        network.execution = execution
        for _ in range(2):  # the second plays a recording
            features = network.forward_features(images, budget=0.55, per_image=True)
            exact = network(images, budget=0.55, per_image=True)
            assert torch.allclose(network.forward_head(features), exact, atol=1e-5)
            assert torch.equal(network.forward_intermediates(images, budget=0.55, per_image=True)[0], features)
        with network.at_budget(0.55):
            assert torch.equal(network.forward_features(images, per_image=True), features)
        maps, usage = stages(images, budget=0.55, return_usage=True, per_image=True)
        assert (usage.conditional_fraction <= 0.55).all() and (usage.conditional_fraction > 0.45).all()
        assert all(map(torch.equal, maps, stages(images, budget=0.55, per_image=True)))


def test_exact_budgets_are_for_inference() -> None:
    network, images = measured()
    with pytest.raises(UserError, match="per_image=True is for inference"):
        network.train()(images, budget=0.4, per_image=True)


@torch.inference_mode()
def test_around_a_call_any_budget_holds_too() -> None:
    network, images = measured()
    with network.at_budget(0.55):
        assert torch.equal(network(images), network(images, budget=0.55))
        exact = network(images, return_usage=True, per_image=True)[1]
    assert (exact.conditional_fraction <= 0.55).all()
    with network.at_budget(0.3, extrapolate=True):
        assert torch.equal(network(images), network(images, budget=0.3, extrapolate=True))


@pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
@torch.inference_mode()
def test_an_export_extrapolates_where_it_is_asked_to_and_takes_no_precision_that_images_choose(monkeypatch) -> None:
    network, images = measured()
    network.execution = "sparse"
    asked = {"budget": 0.3, "extrapolate": True}
    expected = network(images, **asked)
    program = torch.export.export(network, (images,), asked, strict=False)
    assert torch.allclose(program.module()(images, **asked), expected, atol=1e-4)
    with network.at_budget(0.3, extrapolate=True):
        program = torch.export.export(network, (images,), strict=False)
    assert torch.allclose(program.module()(images), expected, atol=1e-4)
    with pytest.raises(UserError, match="extrapolate=True"):
        torch.export.export(network, (images,), {"budget": 0.3}, strict=False)
    network.precision = "auto"
    monkeypatch.setattr(precision, "dtype_of", lambda asked: torch.bfloat16)
    with pytest.raises(UserError, match="precision='auto' is chosen by images"):
        torch.export.export(network, (images,), {"budget": 0.4}, strict=False)


@torch.inference_mode()
def test_curves_travel_with_the_network() -> None:
    network, images = measured()
    sent = pickle.loads(pickle.dumps(network))
    assert torch.equal(sent(images, budget=0.55), network(images, budget=0.55))
