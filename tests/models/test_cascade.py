"""A network as a cascade: the first answer where it is sure, the second elsewhere, and what both cost."""
from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from sparse_cases import images_of, network_of

import bdsa
from bdsa.errors import UserError
from bdsa.method.cascade import Confidence, confidence
from bdsa.method.curves import Point
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import auto
from bdsa.sparse.executor import Executor
from bdsa.training.evaluation import evaluated_budgets

IMAGES = images_of((24, 32, 32))
BUDGET = 0.6  # of looks at 0.4 and 0.7


@cache
def _measured() -> AdaptiveNetwork:
    network = network_of("cifar_resnet8")
    bdsa.calibrate_confidence(network, IMAGES.split(10))
    return network


@pytest.fixture
def network() -> AdaptiveNetwork:
    return copy.deepcopy(_measured())


@pytest.mark.parametrize("execution", ["masked", "sparse"])
@torch.inference_mode()
def test_sure_answers_are_the_first_looks_and_others_the_seconds(network: AdaptiveNetwork, execution: str) -> None:
    network.execution = execution
    logits, usage = network(IMAGES, budget=BUDGET, return_usage=True, cascade=True)
    first, first_usage = network(IMAGES, budget=0.4, return_usage=True)
    sure = confidence(first) >= network.confidence.threshold(BUDGET)
    second, second_usage = network(IMAGES[~sure], budget=0.7, return_usage=True)
    assert 0 < int(sure.sum()) < len(IMAGES)
    assert torch.equal(logits[sure], first[sure]) and torch.equal(logits[~sure], second)
    assert torch.equal(network(IMAGES, budget=BUDGET, cascade=True), logits)
    for name in ("conditional_fraction", "macs", "block_fractions"):
        expected = getattr(first_usage, name).clone()
        expected[~sure] += getattr(second_usage, name)
        assert torch.equal(getattr(usage, name), expected), name
    for mask, own, other in zip(usage.masks, first_usage.masks, second_usage.masks):
        assert torch.equal(mask[sure], own[sure]) and torch.equal(mask[~sure], other)


@torch.inference_mode()
def test_the_budget_is_met_on_the_images_that_confidence_was_measured_on(network: AdaptiveNetwork) -> None:
    low, high = network.confidence.fractions
    for budget in (0.5, 0.6, 0.8):
        usage = network(IMAGES, budget=budget, return_usage=True, cascade=True)[1]
        share = (usage.conditional_fraction > high).double().mean()
        assert low + high * float(share) == pytest.approx(budget, abs=1.01 / len(IMAGES))


@torch.inference_mode()
def test_1_is_the_dense_network_and_the_first_budget_one_look(network: AdaptiveNetwork) -> None:
    assert torch.equal(network(IMAGES, budget=1.0, cascade=True), network(IMAGES))
    assert torch.equal(network(IMAGES, budget=0.4, cascade=True), network(IMAGES, budget=0.4))


@torch.inference_mode()
def test_a_dense_second_look_is_counted_as_dense() -> None:
    network = network_of("cifar_resnet8")
    known = bdsa.calibrate_confidence(network, [IMAGES], second=1.0)
    assert known.budgets == (0.4, 1.0) and known.fractions[1] == 1.0
    usage = network(IMAGES, budget=0.9, return_usage=True, cascade=True)[1]
    once, dense = (network(IMAGES, budget=b, return_usage=True)[1] for b in (0.4, 1.0))
    twice = usage.conditional_fraction > 1
    assert 0 < int(twice.sum()) < len(IMAGES)
    assert torch.equal(usage.macs[twice], (once.macs + dense.macs)[twice])
    assert all(bool(logits[twice].isinf().all()) for logits in usage.mask_logits)
    assert all(bool(mask[twice].all()) for mask in usage.masks)


@torch.inference_mode()
def test_the_attribute_says_what_a_call_does_not(network: AdaptiveNetwork) -> None:
    expected = network(IMAGES, budget=BUDGET, cascade=True)
    network.cascade = True
    assert torch.equal(network(IMAGES, budget=BUDGET), expected)
    assert torch.equal(network(IMAGES), network(IMAGES, cascade=False)), "without a budget it is dense"
    assert torch.equal(network(IMAGES, budget=Point("b040")), network(IMAGES, budget=0.4, cascade=False))
    assert float(network.require(0.55)) == 0.55, "the looks reach it, without curves"
    network.per_image = True
    assert torch.equal(network(IMAGES, budget=BUDGET, per_image=False), expected), "both looks heed the call"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("execution", ["masked", "sparse"])
@torch.inference_mode()
def test_a_call_that_says_no_looks_once_whatever_the_attribute_says(network: AdaptiveNetwork, execution: str) -> None:
    network.execution = execution
    once = [network(IMAGES, budget=budget) for budget in (0.4, 0.7)]
    assert not torch.equal(once[1], network(IMAGES, budget=0.7, cascade=True))
    network.cascade = True
    rows = torch.arange(len(IMAGES)) % 2
    mixed = network(IMAGES, budget=[(0.4, 0.7)[row] for row in rows.tolist()], cascade=False)
    torch.testing.assert_close(mixed, torch.where(rows[:, None] == 0, *once))
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(compiled(IMAGES, budget=0.7, cascade=False), once[1])


def test_thresholds_that_move_take_along_what_was_measured_with_them(network: AdaptiveNetwork) -> None:
    network.cascade = True
    bdsa.calibrate(network, [IMAGES])
    assert network.confidence is None and network.curves
    with torch.inference_mode(), pytest.raises(UserError, match="calibrate_confidence"):
        network(IMAGES, budget=BUDGET)


def test_the_budgets_of_an_evaluation_are_those_that_the_cascade_reaches(network: AdaptiveNetwork) -> None:
    network.confidence = replace(network.confidence, budgets=(0.7, 1.0), fractions=(0.7, 1.0))
    assert list(evaluated_budgets(network)) == [0.4, 0.7, 1.0]
    network.cascade = True
    assert list(evaluated_budgets(network)) == [0.7, 1.0]
    network.warm_up([(1, 3, 32, 32)])
    network.confidence = replace(network.confidence, budgets=(0.4, 0.7), fractions=(0.3, 0.35))
    assert list(evaluated_budgets(network)) == [0.4, 1.0], "0.7 is more than both looks take"


@torch.inference_mode()
def test_a_warm_up_makes_both_looks_ready_though_all_its_images_are_sure(network: AdaptiveNetwork, monkeypatch) -> None:
    network.execution, made = "auto", []
    monkeypatch.setattr(Confidence, "threshold", lambda self, budget: -1e9)
    for name in ("of", "calibrate"):
        where = {"of": Executor, "calibrate": auto}[name]
        before = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *args, before=before: made.append(1) or before(*args))
    network.warm_up([(9, 3, 32, 32)], budgets=[BUDGET], cascade=True)
    assert made
    made.clear()
    for count in (1, 3, 9):
        for look in network.confidence.budgets:
            network(IMAGES[:count], budget=look, cascade=False)
    assert not made
    network.confidence = None
    with pytest.raises(UserError, match="calibrate_confidence"):
        network.warm_up([(9, 3, 32, 32)], cascade=True)


def test_gradients_reach_both_looks(network: AdaptiveNetwork) -> None:
    network(IMAGES, budget=BUDGET, cascade=True).sum().backward()
    norms = network.adaptive_blocks()[-1].bn2.per_budget
    assert all(float(norms[name].weight.grad.abs().sum()) > 0 for name in ("b040", "b070"))


@pytest.mark.filterwarnings("ignore")
@torch.inference_mode()
def test_a_compiled_network_gives_the_same(network: AdaptiveNetwork) -> None:
    network.execution = "sparse"
    compiled = torch.compile(network, backend="eager")
    assert torch.equal(compiled(IMAGES, budget=BUDGET, cascade=True), network(IMAGES, budget=BUDGET, cascade=True))


def test_files_carry_it(network: AdaptiveNetwork, tmp_path: Path) -> None:
    bdsa.save(network, tmp_path / "network.safetensors")
    loaded = bdsa.load(tmp_path / "network.safetensors")
    assert loaded.confidence == network.confidence
    bdsa.calibrate_curves(network, [IMAGES])
    network.extrapolate = True
    bdsa.calibrate_confidence(network, [IMAGES], first=0.38)
    bdsa.save(network, tmp_path / "below.safetensors")
    assert bdsa.load(tmp_path / "below.safetensors").confidence == network.confidence
    other = bdsa.create_model("cifar_resnet8", [0.5, 0.7], 10)
    other.confidence = network.confidence
    bdsa.save(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no confidence of this network"):
        bdsa.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(("how", "says"), [
    ({"budget": [0.4] * 24}, "not one an image"), ({"budget": 0.5, "per_image": True}, "per_image"),
    ({"budget": 0.5, "masks": []}, "masks"), ({"latency_ms": 5.0}, "latency_ms"), ({"budget": 0.3}, "below 0.4")])
def test_what_contradicts_a_mean_budget_is_refused(network: AdaptiveNetwork, how: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        network(IMAGES, cascade=True, **how)


def test_a_cascade_within_at_budget_is_refused_where_it_would_be_one_look(network: AdaptiveNetwork) -> None:
    with torch.inference_mode(), network.at_budget(0.4), pytest.raises(UserError, match="from the call"):
        network(IMAGES, cascade=True)
    with torch.inference_mode(), network.at_budget(1.0):
        assert torch.equal(network(IMAGES, cascade=True), network(IMAGES, budget=1.0))


def test_a_cascade_is_for_inference_and_its_export_is_sparse(network: AdaptiveNetwork) -> None:
    with pytest.raises(UserError, match="network.eval"):
        network.train()(IMAGES, budget=0.5, cascade=True)
    with pytest.raises(Exception, match="a masked network's export is one look"):
        torch.export.export(network.eval(), (IMAGES,), {"budget": 0.5, "cascade": True}, strict=False)
    network.cascade = True
    with pytest.raises(UserError, match="a deadline is for one look"):
        bdsa.plan(network, latency_ms=1000, images=IMAGES, seconds=0.01)
    assert network_of("cifar_resnet8").confidence is None
    with pytest.raises(UserError, match="calibrate_confidence"):
        network_of("cifar_resnet8")(IMAGES, budget=0.5, cascade=True)


@pytest.mark.parametrize(("how", "says"), [
    ({"first": 0.7, "second": 0.4}, "not 0.7 and then 0.4"), ({"first": 0.2}, "0.2"), ({"batches": []}, "no images"),
    ({"batches": [IMAGES * torch.inf]}, "infinite or not a number")])
def test_confidence_that_cannot_be_measured_is_refused(network: AdaptiveNetwork, how: dict, says: str) -> None:
    before = network.confidence
    with pytest.raises(UserError, match=says):
        bdsa.calibrate_confidence(network, how.pop("batches", [IMAGES]), **how)
    assert network.confidence is before and not network.training


def test_a_first_look_that_is_no_cheaper_is_refused(network: AdaptiveNetwork) -> None:
    for block in network.adaptive_blocks():
        block.mask_units["b040"].load_state_dict(block.mask_units["b070"].state_dict())
        for name in ("bn1", "bn2"):
            norms = getattr(block, name).per_budget
            norms["b040"].load_state_dict(norms["b070"].state_dict())
    with pytest.raises(UserError, match="needs a cheaper first look"):
        bdsa.calibrate_confidence(network, [IMAGES])


def test_one_budget_and_one_class_make_no_cascade() -> None:
    with pytest.raises(UserError, match="trained for one budget"):
        bdsa.calibrate_confidence(bdsa.create_model("cifar_resnet8", [0.5], 10), [IMAGES])
    with pytest.raises(UserError, match="two classes or more"):
        bdsa.calibrate_confidence(bdsa.create_model("cifar_resnet8", [0.5, 0.7], 1), [IMAGES])
