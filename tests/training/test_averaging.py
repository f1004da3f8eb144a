"""What a step of several processes does alone: with one of two processes, whose peer says what this one says."""
from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from steps import batch, make_step, state
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.testing._internal.distributed.fake_pg import FakeStore

from bdsa.method.whole_batch import WholeBatchNorm2d
from bdsa.training import averaging
from bdsa.training.compilation import compiled


@pytest.fixture
def two(monkeypatch):
    """This process is the first of two; the other one does not exist, and sums are this one's own values."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    monkeypatch.setattr(averaging, "BUCKET", 2 ** 15)
    yield
    dist.destroy_process_group()


def test_gradients_are_sent_while_the_backward_pass_runs(two, monkeypatch):
    step, log, send = make_step(budgets=(0.3, 0.7), optimizer="momentum"), [], dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda x, **how: (
        log.append("sent" if how else "waited for"), send(x, **how))[1])
    step.network.conv1.weight.register_hook(lambda gradient: log.append("the last gradient"))
    sent = []
    for number in range(4):
        before = state(step.network)
        step.start_epoch(0)
        log.clear()
        step(number, *batch(number))
        last = log.index("the last gradient")
        sent.append((log[:last].count("sent"), log[last:].count("sent")))
        moved = {name for name, value in step.network.state_dict().items() if not torch.equal(value, before[name])}
        own, other = (step.budgets.at_step(n).name for n in (number, number + 1))
        assert any(own in name for name in moved) and not any(other in name for name in moved)
    (_, first), (_, second), *later = sent
    assert sent[0][0] == sent[1][0] == 0 and first == second > 2  # the order of a budget's gradients is seen first
    assert all(during == first - 1 and after == 1 for during, after in later)


def test_norms_over_all_processes_break_no_graph(two):
    step = make_step(budgets=(0.3,))
    assert any(isinstance(module, WholeBatchNorm2d) for module in step.network.modules())
    counters.clear()
    forward = compiled(step.network, 32, phases=1, backend=CompileCounterWithBackend("eager"))
    logits, usage = forward(batch(0)[0], **step.losses.objective.asks(0.3, 0))
    (logits.sum() + usage.conditional_fraction.sum()).backward()
    assert counters["graph_break"] == {} and counters["stats"]["unique_graphs"] == 1
    assert step.network.conv1.weight.grad is not None
