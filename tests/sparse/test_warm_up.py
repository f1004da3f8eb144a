"""First calls that do not stall, and budgets for a deadline: what is measured, when, and what is said."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sparse_cases import network_of

import bdsa
from bdsa.errors import UserError
from bdsa.models import deadlines
from bdsa.models.deadlines import Measured, Plan
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import auto, deadline, executors, native
from bdsa.sparse.execution import executor_of
from bdsa.sparse.executors import Executors

SHAPE = (1, 3, 32, 32)
TABLE = (Measured(0.4, 1.0, 2.0), Measured(0.7, 2.0, 3.0), Measured(1.0, 3.0, 4.0))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for every calibration that is made."""
    made: list[int] = []
    before = auto.calibrate
    monkeypatch.setattr(auto, "calibrate", lambda *arguments: made.append(1) or before(*arguments))
    return made


@torch.inference_mode()
def test_after_a_warm_up_no_call_measures(calls: list[int]) -> None:
    network = network_of("cifar_resnet8")
    network.execution = "auto"
    network.warm_up([SHAPE, (2, 3, 32, 32), (1, 3, 48, 40)])
    assert len(calls) == 3, "once a size of image and class of batch, for all budgets"
    for shape in (SHAPE, (1, 3, 48, 40), (1, 3, 64, 64), (9, 3, 20, 20)):
        logits = network(torch.ones(shape), budget=0.7)
        network.execution = "masked"
        assert torch.allclose(logits, network(torch.ones(shape), budget=0.7), atol=1e-4)
        network.execution = "auto"
    assert len(calls) == 3


@torch.inference_mode()
def test_a_warm_up_records_every_shape_in_whatever_order_they_are_given() -> None:
    network = network_of("cifar_resnet8")
    network.execution = "sparse"
    network.warm_up([SHAPE, (4, 3, 40, 40)], budgets=[0.4])
    recordings = executor_of(network, "b040").workspace.recordings
    assert len(recordings) == (2 if native.unavailable() is None else 0)


@torch.inference_mode()
def test_sizes_that_take_turns_are_measured_once(calls: list[int]) -> None:
    network = network_of("cifar_resnet8")
    network.execution = "auto"
    for size in (32, 40, 32, 40):
        network(torch.ones(1, 3, size, size), budget=0.4)
    assert len(calls) == 2


def test_the_nearest_input_is_of_the_same_batch_and_then_of_a_like_size() -> None:
    x = torch.zeros(1, 3, 60, 60)
    here = auto.conditions(x, torch.float32)
    found = [{**here, "image_size": [32, 32], "blocks": {"1": [0.1], "8": [0.8]}},
             {**here, "image_size": [64, 64], "blocks": {"8": [0.9]}}]
    assert auto.nearest(found, x, torch.float32, 1) == [0.1]
    assert auto.nearest(found, x.expand(8, 3, 60, 60), torch.float32, 1) == [0.9]
    assert auto.nearest([{**found[0], "processor": "another"}], x, torch.float32, 1) is None


def test_after_a_warm_up_on_a_gpu_what_is_new_goes_as_what_is_nearest_of_its_budget(monkeypatch) -> None:
    x, kept, measured = torch.zeros(9, 3, 32, 32), Executors(), []
    monkeypatch.setattr(executors, "_find_ways", lambda *what: measured.append(1) or [auto.ALWAYS])
    executor = SimpleNamespace(products=torch.float32, blocks=lambda: [None])
    found = {**auto.conditions(x, torch.float32), "blocks": {
        "1 at b040 in float32": [0.1], "2 at b040 in float32": [0.6], "8 at b070 in float32": [0.8]}}
    kept.settled = True
    assert kept._found_on_gpu(found, executor, "8 at b040 in float32", x, None) == [0.6] and not measured
    assert kept._found_on_gpu(found, executor, "8 at b100 in float32", x, None) == [0.8] and not measured
    kept.settled = False
    assert kept._found_on_gpu(found, executor, "8 at b040 in float32", x, None) == [auto.ALWAYS] and measured


@pytest.mark.parametrize(("shapes", "budgets", "says"), [
    ([(3, 32, 32)], None, r"\(3, 32, 32\) is no shape .*\(B, 3, H, W\)"), ([SHAPE], [0.5], "0.5 was not trained")])
def test_what_cannot_be_warmed_up_is_said(shapes: list, budgets: list | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        network_of("cifar_resnet8").warm_up(shapes, budgets)


def test_a_plan_gives_the_largest_budget_that_meets_a_deadline() -> None:
    plan = Plan(3.3, SHAPE, 99.0, True, "auto", "float32", "one", 1, 100, TABLE)
    assert plan.budget == 0.7 and plan.budget_for(100) == 1.0
    assert plan.budget_for(3.1) == 0.4, "a twentieth is kept in reserve"
    with pytest.raises(UserError, match="latency_ms=1 is below the fastest: budget 0.4 takes up to 2 ms .*give 2.1"):
        plan.budget_for(1)


@torch.inference_mode()
def test_a_planned_deadline_is_asked_for_in_the_call() -> None:
    network, images = network_of("cifar_resnet8"), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network.execution = "sparse"
    with pytest.raises(UserError, match=r"no plan .*\[1, 3, 32, 32\].*bdsa.plan\(network, latency_ms=9000, batch"):
        network(images[:1], latency_ms=9000)
    plan = bdsa.plan(network, latency_ms=9000, image_size=32, seconds=0.01)
    assert plan.per_image and [row.budget for row in plan.table] == [0.4, 0.7, 1.0]
    assert [row.ms for row in plan.table] == sorted(row.ms for row in plan.table)
    assert plan.budget == 1.0 and torch.equal(network(images[:1], latency_ms=9000), network(images[:1], budget=1.0))
    own = bdsa.plan(network, latency_ms=9000, images=images, budgets=[0.4, 0.7], seconds=0.01)
    assert not own.per_image and network.plans == (own,), "in place of the one of the same shape"
    assert torch.equal(network(images[:1], latency_ms=9000), network(images[:1], budget=0.7))
    with pytest.raises(UserError, match=r"measured with per_image=False: .*per_image=True\) measures another"):
        network(images[:1], latency_ms=9000, per_image=True)
    with pytest.raises(UserError, match="two answers to one question"):
        network(images[:1], budget=0.4, latency_ms=9000)
    with pytest.raises(UserError, match="below the fastest: budget 0.4"):
        bdsa.plan(network, latency_ms=1e-6, images=images, seconds=0.01)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> AdaptiveNetwork:
    """A network whose inferences take 10 ms times the budget, but four of a hundred ten times as long."""
    network, now, calls = network_of("cifar_resnet8"), [0.0], {}
    monkeypatch.setattr(deadline, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def takes_time(module, args, asked):
        budget = asked["budget"]
        calls[budget] = number = calls.get(budget, -1) + 1
        now[0] += 0.01 * budget * (10 if number % 25 == 24 else 1)

    network.register_forward_pre_hook(takes_time, with_kwargs=True)
    return network


@pytest.mark.parametrize(("percentile", "slow"), [(90.0, 1), (99.0, 10), (93.0, 10)])
def test_a_plan_says_what_so_many_of_the_inferences_do_not_exceed(clocked, percentile: float, slow: int) -> None:
    """Half of what may exceed it is left to chance: 96.5 % for 93."""
    plan = bdsa.plan(clocked, latency_ms=1000, image_size=8, percentile=percentile, seconds=0.01)
    assert plan.rounds == 100 and [row.budget for row in plan.table] == [0.4, 0.7, 1.0]
    assert [row.median_ms for row in plan.table] == pytest.approx([4, 7, 10])
    assert [row.ms for row in plan.table] == pytest.approx([4 * slow, 7 * slow, 10 * slow])


def test_a_plan_on_a_gpu_waits_for_it_around_each_inference_and_names_it(clocked, monkeypatch) -> None:
    waits: list[int] = []
    monkeypatch.setattr(deadline, "_wait", lambda device: waits.append(1))
    monkeypatch.setattr(deadlines.torch.cuda, "get_device_name", lambda device: "a GPU")
    plan = bdsa.plan(clocked, latency_ms=1000, image_size=8, seconds=0.01)
    assert len(waits) == 2 * plan.rounds * len(plan.table)
    assert plan.processor == deadlines.name_of(torch.device("cpu")) != deadlines.name_of(torch.device("cuda"))
    with pytest.raises(UserError, match="no plan says how long"):
        deadlines.budget_within([plan], 1000, (*plan.conditions[:3], "a GPU", plan.threads))


@torch.inference_mode()
@pytest.mark.parametrize("changed", ["batch", "size", "execution", "threads"])
def test_a_plan_is_for_what_it_was_measured_with(monkeypatch, changed: str) -> None:
    network, images = network_of("cifar_resnet8"), torch.zeros(1, 3, 8, 8)
    made = bdsa.plan(network, latency_ms=9000, images=images, budgets=[0.4], seconds=0.01)
    assert torch.equal(network(images, latency_ms=9000), network(images, budget=0.4)) and made.budget == 0.4
    if changed == "execution":
        network.execution = "sparse"
    if changed == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    with pytest.raises(UserError, match="no plan says how long"):
        network({"batch": images.expand(2, -1, -1, -1), "size": torch.zeros(1, 3, 8, 12)}.get(changed, images),
                latency_ms=9000)


@pytest.mark.parametrize(("asked", "says"), [
    ({"latency_ms": 0, "image_size": 32}, "latency_ms=0"), ({"latency_ms": 5}, "which images"),
    ({"latency_ms": 5, "image_size": 32, "percentile": 101}, "percentile=101"),
    ({"latency_ms": 5, "images": torch.zeros(1, 3, 32, 32), "batch_size": 2}, "1 images for a batch of 2")])
def test_what_cannot_be_planned_is_said(asked: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        bdsa.plan(network_of("cifar_resnet8"), **asked)
