"""Compiled training: what eager training computes, one graph a budget and phase, weights under their own names."""
from __future__ import annotations

import copy
import shutil

import pytest
import torch
from command_line import TINY, run
from steps import batch, make_step, state, take
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from bdsa.commands.entry_points import train as train_main
from bdsa.models.factory import create_dense_model
from bdsa.training.compilation import compiled
from bdsa.training.teachers import DenseTeacher

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh():
    """No graphs and limits of another test."""
    limit, torch._dynamo.config.recompile_limit = torch._dynamo.config.recompile_limit, 8  # torch's default
    torch._dynamo.reset()
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def test_masks_break_no_graph_and_each_budget_and_phase_has_one():
    step = make_step(budgets=(0.3, 1.0))
    counter = CompileCounterWithBackend("eager")
    forward = compiled(step.network, 32, phases=2, backend=counter, fullgraph=True)
    phases = [(5.0, True), (1.0, False)]
    for number, (temperature, noise) in enumerate(phases, 1):
        for _ in range(2):
            for budget in step.budgets:
                logits, usage = forward(batch(0)[0], budget=budget, return_usage=True, temperature=temperature,
                                        noise=noise)
                (logits.sum() + usage.conditional_fraction.sum()).backward()
        assert counter.frame_count == 2 * number
    assert forward.budgets == step.budgets and not any("_orig_mod" in name for name in step.network.state_dict())


def test_all_budgets_between_two_share_a_graph():
    step = make_step(budgets=(0.3, 0.5, 0.7), noise_until=0.0, budgets_settings={"sample": "continuous"})
    counter = CompileCounterWithBackend("eager")
    step.forward = compiled(step.network, 32, phases=1, backend=counter, fullgraph=True)
    before = state(step.network)
    take(step, 0, 9)
    assert counter.frame_count == 2 and len({step.sampling.at(k) for k in range(9)}) == 9
    moved = [n for n, t in state(step.network).items() if "b070.running_var" in n and not torch.equal(t, before[n])]
    assert moved  # statistics are followed within the graph


def test_a_range_in_a_sandwich_taught_by_itself_stays_below_the_limit_of_graphs():
    """Both ends, what lies between them and the dense teacher, in every phase."""
    step = make_step(budgets=(0.3, 0.7), budgets_settings={"sample": "continuous", "schedule": "sandwich"},
                     teacher={"kind": "self"}, images=8, epochs=10)
    step.network.layer2, step.network.layer3 = nn.Sequential(), nn.Sequential()
    step.network.fc = nn.Linear(16, 10)
    counter = CompileCounterWithBackend("eager")
    step.forward = compiled(step.network, 32, phases=4, backend=counter)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        take(step, 0, 20)
    assert counter.frame_count >= 3 * 4 + 1


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler on this machine")
def test_a_compiled_step_moves_the_weights_as_an_eager_one():
    steps = []
    for compile in (True, False):
        step = make_step(budgets=(0.5,), noise_until=0.0, optimizer="momentum", momentum=0.0, lr=1.0, weight_decay=0.0,
                         schedule="constant", trainer={"compile": compile})
        step.network.layer2, step.network.layer3 = nn.Sequential(), nn.Sequential()  # one block compiles faster
        step.network.fc = nn.Linear(16, 10)
        steps.append(step)
    assert steps[0].forward is not steps[0].network
    steps[0].network.load_state_dict(steps[1].network.state_dict())
    before = state(steps[1].network)
    fast, slow = (take(step, 0, 1) for step in steps)
    assert fast.keys() == slow.keys()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-4, atol=1e-4)
    after = state(steps[1].network)
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    for name, tensor in state(steps[0].network).items():                    # at rate 1 the move is the gradient
        torch.testing.assert_close(tensor, after[name], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("precision, tolerance", [(None, 1e-4), (torch.bfloat16, 0.05)])
def test_a_compiled_teacher_says_what_an_eager_one_says(precision, tolerance):
    torch.manual_seed(0)
    network = create_dense_model("cifar_resnet8", num_classes=10)
    network.layer2, network.layer3, network.fc = nn.Sequential(), nn.Sequential(), nn.Linear(16, 10)
    teachers = [DenseTeacher(copy.deepcopy(network), [0.4] * 3, [0.25] * 3, compile) for compile in (True, False)]
    before = copy.deepcopy(teachers[0].network.state_dict())
    for number in (0, 1):
        with torch.autocast("cpu", precision, enabled=precision is not None):
            fast, slow = (teacher(None, batch(number)[0]).float() for teacher in teachers)
        torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)
        assert not fast.requires_grad
    assert all(torch.equal(t, before[name]) for name, t in teachers[0].network.state_dict().items())


def test_without_a_compiler_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    outcome = run(train_main, [*TINY, f"out={tmp_path}", "trainer.compile=true"])
    assert outcome.code == 1 and "trainer.compile=true needs a C++ compiler" in outcome.err
    assert outcome.err.count("\n") == 1 and not list(tmp_path.rglob("*.*"))
