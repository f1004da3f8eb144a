"""A training that ends in numbers that are none: what is kept, and what it advises."""
from __future__ import annotations

import pytest
import torch
from command_line import TINY, run

from bdsa.commands.entry_points import train as train_main
from bdsa.models.checkpoints import read_checkpoint
from bdsa.training.step import TrainStep

pytestmark = pytest.mark.slow


def test_weights_that_an_epochs_last_update_spoilt_are_not_kept_and_another_run_may_begin_before_them(
        tmp_path, monkeypatch):
    step, short = TrainStep.__call__, [*TINY, "recipe.epochs=2", "budgets.targets=[0.5]", f"out={tmp_path}"]

    def spoils(self, number, images, labels):
        losses = step(self, number, images, labels)
        if number + 1 == self.total:  # its own loss was finite still
            with torch.no_grad():
                self.network.conv1.weight[0, 0, 0, 0] = torch.nan
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", spoils)
        outcome = run(train_main, [*short, "name=one"])
    last = tmp_path / "one/checkpoints/last.pt"
    assert outcome.code == 1 and "diverged in epoch 2 (weights that are infinite or no numbers)" in outcome.err
    assert f"in another run, name=..., which may begin from epoch 1 of this one: model.start={last}" in outcome.err
    kept = read_checkpoint(last)
    assert kept["epoch"] == 1 and all(t.isfinite().all() for t in kept["state_dict"].values())
    assert run(train_main, [*short, "name=two", f"model.start={last}", "recipe.lr=1e-4"]).code == 0
