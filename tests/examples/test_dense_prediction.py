"""The dense-prediction example trains a backbone inside of torchvision's heads, and says what each budget finds."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bdsa

EXAMPLE = Path(__file__).parents[2] / "examples" / "dense_prediction.py"


@pytest.mark.slow
@pytest.mark.parametrize("task, found", [("segment", "mean IoU"), ("detect", "recall")])
def test_every_budget_is_measured_at_both_sizes(task, found, tmp_path):
    done = subprocess.run([sys.executable, EXAMPLE, f"task={task}", "quick", "out=kept/backbone.safetensors"],
                          cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = re.findall(rf"budget (\S+)\s+{found} .*?([\d.]+) % of the MACs", done.stdout)
    assert [budget for budget, _ in lines] == ["0.1", "0.3", "1"] * 2
    shares = [float(share) for _, share in lines[:3]]
    assert shares[0] < shares[1] < shares[2] == 100
    backbone = bdsa.load(tmp_path / "kept/backbone.safetensors")
    with torch.inference_mode():
        assert [m.shape[2] for m in backbone(torch.rand(1, 3, 96, 96), budget=0.1)] == [12, 6, 3]
