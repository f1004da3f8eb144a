"""What a cluster exports beside a launcher's own: a process alone trains, and half an environment is one line."""
from __future__ import annotations

import pytest
from command_line import TINY, run

from bdsa.commands.entry_points import evaluate, train


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_rank_of_nothing_is_a_process_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    outcome = run(train, [*TINY, f"out={tmp_path}", "name=alone", "budgets.targets=[0.5]", "recipe.epochs=1"])
    assert outcome.code == 0 and "epoch 1/1" in outcome.out, outcome.err
    assert (tmp_path / "alone/results.json").exists()


@pytest.mark.parametrize("command", [train, evaluate])
@pytest.mark.parametrize("environment, said", [
    ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"), ({"WORLD_SIZE": "2"}, "RANK"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 and WORLD_SIZE=2: of 2 processes the ranks are 0 to 1"),
    ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK=1 and WORLD_SIZE=1"),
    ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK=first is no number"),
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is no number")])
def test_half_an_environment_is_one_line_of_this_process(tmp_path, monkeypatch, command, environment, said):
    monkeypatch.setattr("bdsa.ranks.GRACE", 1e6)  # it waits for no other one
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = run(command, [f"out={tmp_path}/made", *(["checkpoint=none.pt"] if command is evaluate else [])])
    assert outcome.code == 1 and outcome.out == "" and len(outcome.err.splitlines()) == 1, outcome
    assert said in outcome.err and "torchrun" in outcome.err
    assert not (tmp_path / "made").exists()
