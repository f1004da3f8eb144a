"""Which GPU a run takes: the one that it names is the current one too, and the one that its environment names."""
from __future__ import annotations

import torch

from bdsa.config.settings import TrainerConfig
from bdsa.runs.environment import environment
from bdsa.training.device import choose_device


def test_a_gpu_that_is_named_is_used_and_recorded(monkeypatch):
    current = [torch.device("cuda", 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(torch.device(device)))
    monkeypatch.setattr(torch.cuda, "get_device_name",
                        lambda device=None: f"GPU {(torch.device(device or 'cuda').index or 0)}")
    device = choose_device(TrainerConfig(device="cuda:1"))
    assert device == current[-1] == torch.device("cuda", 1)
    assert environment(str(device))["accelerator"] == "GPU 1"
    assert environment(str(choose_device(TrainerConfig(device="cuda"))))["accelerator"] == "GPU 0"
    assert environment("cpu")["accelerator"] is None
