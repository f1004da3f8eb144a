"""Pictures never cost what a training made: they take no more memory than an evaluation, and may fail."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import TINY, run
from small_data import small
from sparse_cases import network_of

from bdsa.budgets import Budgets
from bdsa.commands.entry_points import train
from bdsa.data.datasets import create_splits
from bdsa.report.pictures.masks import MaskColumn
from bdsa.runs.tracker import NoTracker
from bdsa.training import results


def test_the_sheet_shows_its_images_in_batches_of_an_evaluation(tmp_path, monkeypatch):
    network, splits, drawn = network_of("cifar_resnet8"), create_splits(small(image_size=32)), []
    splits.test.draw()
    seen = []
    network.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    monkeypatch.setattr(results, "mask_picture", lambda images, columns, *_, **__: drawn.append(columns))
    for size in (20, 3):
        results.draw_masks(network, splits.test, splits, Budgets([0.4, 0.7]).adaptive, tmp_path / "masks.png", 7, size,
                           torch.device("cpu"))
    assert seen == [7, 7, 3, 3, 1, 3, 3, 1]
    for whole, parts in zip(*drawn, strict=True):
        assert isinstance(parts, MaskColumn) and parts.predictions == whole.predictions
        assert parts.fractions == pytest.approx(whole.fractions, abs=1e-3)
        assert [m.shape for m in parts.masks] == [m.shape for m in whole.masks]


def test_a_picture_that_fails_is_a_warning(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("no memory for it")

    monkeypatch.setattr(results, "mask_picture", fail)
    monkeypatch.setattr(NoTracker, "wants_picture", lambda self, epoch: epoch == 1)
    outcome = run(train, [*TINY, f"out={tmp_path}", "name=a", "budgets.targets=[0.5]", "recipe.epochs=1",
                          "trainer.pictures=2"])
    assert outcome.code == 0, outcome.err
    assert "the masks after epoch 1 could not be drawn (no memory for it)" in outcome.out
    assert "the masks could not be drawn (no memory for it)" in outcome.out
    assert json.loads((tmp_path / "a/results.json").read_text())["epoch"] == 1
    assert (tmp_path / "a/checkpoints/last.pt").exists() and (tmp_path / "a/pictures/curves.png").exists()
