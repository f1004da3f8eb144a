"""The dense-prediction example trains a backbone inside of torchvision's heads, and says what each budget finds."""
from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import bdsa

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """An example within this process, which has imported what takes long: its words -> what it prints."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)

    def running(example: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [example, *words, "quick", "out=kept/backbone.safetensors"])
        with torch._inductor.config.patch(freezing=False):
            runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
        return capsys.readouterr().out

    return running


@pytest.mark.slow
@pytest.mark.parametrize("task, found", [("segment", "mean IoU"), ("detect", "recall")])
def test_every_budget_is_trained_shown_and_measured(task, found, run, tmp_path):
    said = run("dense_prediction", f"task={task}")
    lines = re.findall(rf"budget (\S+)\s+{found} .*?([\d.]+) % of the backbone", said)
    assert [budget for budget, _ in lines] == ["0.1", "0.3", "1"] * 2
    shares = [float(share) for _, share in lines[:3]]
    assert shares[0] < shares[1] < shares[2] == 100
    backbone = bdsa.load(tmp_path / "kept/backbone.safetensors")
    with torch.inference_mode():
        assert [m.shape[2] for m in backbone(torch.rand(1, 3, 96, 96), budget=0.1)] == [12, 6, 3]
    assert (tmp_path / "kept/backbone.png").stat().st_size > 1000
    if task == "segment":  # the same command goes on where it stopped: after the last step it tests alone
        again = run("dense_prediction", "task=segment")
        assert "goes on at step 6" in again and re.findall(rf"{found} .*", again) == re.findall(rf"{found} .*", said)
    else:
        measured = run("dense_prediction_speed", f"task={task}")
        assert len(re.findall(r"budget (0.1|0.3|1) +backbone +[\d.]+ \([\d.]+\) whole", measured)) == 2 * 3
