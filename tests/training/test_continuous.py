"""Continuous budgets: which are drawn, what trains between two of them, and what becomes of it afterwards."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import TINY, run
from steps import batch, make_step, state, take
from torch.nn.functional import batch_norm

import bdsa
from bdsa.budgets import Budget, Budgets
from bdsa.commands.entry_points import train as train_main
from bdsa.config.settings import BudgetsConfig, TrainConfig
from bdsa.errors import UserError
from bdsa.method.between import batch_norm_between, mixed
from bdsa.models.filling import fill_in, hold
from bdsa.training.sampling import Sampling

CONTINUOUS = {"sample": "continuous", "noise_until": 0.0}


def test_the_dense_network_keeps_its_turns_and_the_others_go_to_all_of_the_range():
    sampling = Sampling(Budgets([0.3, 0.4, 0.7, 1.0]), continuous=True, seed=3)
    drawn = [sampling.at(step) for step in range(400)]
    assert all(budgets == (1.0,) for budgets in drawn[3::4])
    below = [b for (b,) in drawn if b < 1]
    assert 0.3 < min(below) < 0.31 and 0.69 < max(below) < 0.7 and len({*below}) > 290
    assert all(0.3 + 0.4 * i / 3 <= b <= 0.3 + 0.4 * (i + 1) / 3 for i in range(3) for (b,) in drawn[i::4])
    again, other = (Sampling(sampling.budgets, True, seed=seed) for seed in (3, 4))
    assert [again.at(step) for step in range(400)] == drawn != [other.at(step) for step in range(400)]
    largest, smallest, *between = Sampling(sampling.budgets, True, "sandwich", between=2).at(0)
    assert (largest, smallest) == (1.0, 0.3) and 0.3 < between[0] < 0.5 < between[1] < 0.7


def test_a_budget_between_has_the_weight_of_its_neighbours_and_is_told_as_the_nearest():
    sampling = Sampling(Budgets([0.3, 0.5, 1.0]), continuous=True)
    assert sampling.weight(Budget(0.35), [1.0, 2.0, 7.0]) == pytest.approx(1.25)
    assert sampling.weight(Budget(0.5), [1.0, 2.0, 7.0]) == 2.0 and sampling.weight(Budget(1), [1.0, 2.0, 7.0]) == 7.0
    name, fraction = sampling.told(Budget(0.35), torch.tensor(0.36))
    assert name == "b030" and float(fraction) == pytest.approx(0.31)  # a hundredth above what was asked


@pytest.mark.parametrize("model", [
    {"norm_affine": "separate"}, {"norm_affine": "shared", "mask_norm": "batch"},
    {"name": "convnext_atto", "args": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}}], ids=str)
def test_what_trains_between_is_what_is_filled_in(model):
    step = make_step((0.3, 0.5, 0.7, 1.0), budgets_settings=CONTINUOUS, model=model, lr=0.02)
    network, images, before = step.network, batch(9)[0], state(step.network)
    take(step, 0, 1)
    touched = [n for n, t in state(network).items() if not torch.equal(t, before[n])]
    assert {b for b in ("b030", "b050", "b070") if any(f".{b}." in n for n in touched)} == {"b030", "b050"}
    take(step, 1, 7)
    with torch.no_grad():
        network.eval()
        between = step.sampling.asked(Budget(0.35), images.device)
        said, used = network(images, budget=between, return_usage=True)
        trained = network(images, budget=0.5)
        assert fill_in(network).plain() == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 1.0]
        filled, also = network(images, budget=0.35, return_usage=True)
        assert torch.allclose(said, filled, atol=1e-5) and said.std() > 0
        assert all(torch.equal(a, b) for a, b in zip(used.masks, also.masks))
        assert torch.equal(trained, network(images, budget=0.5))
        network.train()  # statistics of the batch, whose owners are others
        assert torch.allclose(network(images, budget=between), network(images, budget=0.35), atol=1e-5)
    hold(network, step.budgets)
    assert network.state_dict().keys() == before.keys() and network.budgets == step.budgets


def test_statistics_between_follow_the_batch_as_those_of_a_norm_of_its_own():
    first, second = (torch.nn.BatchNorm2d(3) for _ in range(2))
    share, x = torch.tensor(0.25), 2 + 3 * torch.randn(8, 3, 5, 5)
    with torch.no_grad():
        second.running_mean.fill_(4.0), second.running_var.fill_(3.0), second.weight.fill_(2.0)
    weight, bias = mixed(first.weight, second.weight, share), mixed(first.bias, second.bias, share)
    own = [mixed(first.running_mean, second.running_mean, share), mixed(first.running_var, second.running_var, share)]
    wanted = batch_norm(x, *own, weight, bias, True, 0.1)  # moves both
    assert torch.allclose(batch_norm_between(first, second, share, x, weight, bias), wanted)
    assert torch.allclose(mixed(first.running_mean, second.running_mean, share), own[0])
    assert torch.allclose(mixed(first.running_var, second.running_var, share), own[1])
    (weight.sum() + bias.sum()).backward()
    assert second.weight.grad.tolist() == [0.25] * 3 and first.bias.grad.tolist() == [0.75] * 3
    with torch.no_grad():  # what lies far from any line drives no variance below zero
        for share in [0.1, 0.9] * 40:
            batch_norm_between(first, second, share, x * 10 * (share > 0.5) + 1e-2 * x, weight, bias)
    assert first.running_var.min() > 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("continuous")
    outcome = run(train_main, [*TINY, "budgets=continuous", "recipe.ema_decay=0.9", "budgets.targets=[0.3,0.5,1.0]",
                               "recipe.epochs=1", "budgets.calibration_images=20", f"out={out}", "name=run"])
    assert outcome.code == 0, outcome.err
    return out / "run"


def test_a_continuous_run_ends_as_a_network_of_many_budgets(trained):
    results = json.loads((trained / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["b030", "b050", "b100"]  # what was asked for
    assert all(row["conditional_fraction"] == pytest.approx(row["budget"], abs=0.15) for row in results["rows"])
    assert results["trained_budgets"] == [0.3, 0.5, 1.0] and "b045" in results["curves"]
    images = torch.randn(6, 3, 32, 32)
    for kind in ("best", "best_ema"):
        model = bdsa.load(trained / f"checkpoints/{kind}.pt")
        assert model.budgets.plain() == [0.3, 0.35, 0.4, 0.45, 0.5, 1.0]
    for budget in (0.35, 0.42, [0.3, 0.31, 0.44, 0.45, 0.5, 1.0]):
        model.execution = "masked"
        masked, used = model(images, budget=budget, return_usage=True)
        model.execution = "sparse"
        with torch.inference_mode():
            sparse, also = model(images, budget=budget, return_usage=True)
        assert torch.allclose(masked, sparse, atol=1e-3)
        assert torch.allclose(used.conditional_fraction, also.conditional_fraction, atol=0.01)


def test_a_stopped_continuous_training_goes_on_bit_for_bit():
    whole, first, rest = (make_step((0.3, 0.5, 0.7, 1.0), budgets_settings=CONTINUOUS, ema_decay=0.9)
                          for _ in range(3))
    take(whole, 0, 24)  # two epochs
    take(first, 0, 12)
    rest.network.load_state_dict(first.network.state_dict())
    rest.load_state_dict(first.state_dict())
    take(rest, 12, 12)
    for one, two in zip(whole.networks().values(), rest.networks().values()):
        assert all(torch.equal(t, two.state_dict()[name]) for name, t in one.state_dict().items())


def test_a_loop_of_ones_own_draws_and_steers_between_too():
    model = bdsa.create_model("cifar_resnet8", [0.3, 0.5, 0.7], 10, mask_norm="batch")
    objective = bdsa.Objective(model, sample="continuous", seed=5, control_gain=1.0)
    before = {n: m.norm.bias.item() for n, m in model.layer1[0].mask_units.items()}
    budget = objective.budget_at(0)
    logits, usage = model(batch(0)[0], **objective.asks(budget, 0, 9))
    losses = objective(logits.sum(), usage, budget, 0, 9)
    assert 0.3 < budget < 0.5
    assert losses["network"].item() == pytest.approx((losses["conditional_fraction"].item() - budget) ** 2)
    objective.steer(budget, torch.tensor(budget - 0.1), 0, 9)
    share = (budget - 0.3) / 0.2
    moved = {n: m.norm.bias.item() - before[n] for n, m in model.layer1[0].mask_units.items()}
    assert (1 - share) * moved["b030"] + share * moved["b050"] == pytest.approx(0.1, rel=1e-3) and moved["b070"] == 0
    with pytest.raises(UserError, match="unknown sample 'continous' .did you mean 'continuous'"):
        bdsa.Objective(model, sample="continous")
    with pytest.raises(UserError, match="leave out budgets=.0.3, 0.7."):
        bdsa.Objective(model, [0.3, 0.7], sample="continuous")
    with pytest.raises(UserError, match="budget 0.2 is outside the range from 0.3 to 0.7"):
        objective.asks(0.2, 0, 9)
    with pytest.raises(UserError, match="budget 0.4 was not trained"):
        model(batch(0)[0], **bdsa.Objective(model).asks(0.4, 0, 9))
    with pytest.raises(UserError, match="give two or more"):
        bdsa.Objective(bdsa.create_model("cifar_resnet8", [0.5, 1.0], 10), sample="continuous")


def test_a_range_needs_two_ends():
    config = TrainConfig(budgets=BudgetsConfig(targets=[0.5, 1.0], sample="continuous"))
    with pytest.raises(UserError, match=r"budgets.targets=\[0.5, 1.0\] has fewer than two below 1: give its ends"):
        config.check()
