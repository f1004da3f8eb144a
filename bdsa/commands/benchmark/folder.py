"""What every benchmark begins and ends with: may it start here, and where its benchmark.json goes."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

from bdsa import ranks
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.errors import UserError
from bdsa.runs.environment import in_sweep


def check_alone() -> None:
    """Raise UserError in several processes, of which no benchmark can make one."""
    if ranks.world() > 1:
        raise UserError(f"bdsa-benchmark measures one process and was started in {ranks.world()}: start it without "
                        f"a launcher")


def benchmark_folder(config: BenchmarkConfig, source: str, model: str, device: str) -> Path:
    """Where benchmark.json goes: as asked, else a folder of these settings, this device and number of threads.

    Args:
        config: all settings.
        source: what the images are, for the folder's name.
        model: the model's name, likewise.
        device: what is measured.
    """
    alone = not in_sweep()  # each job of a sweep has a folder of its own
    if config.out is not None and alone:
        return Path(config.out)
    settings = json.dumps([asdict(config), device, torch.get_num_threads()], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    made = f"{config.what}-{source}-{model}-{device.partition(':')[0]}-{digest}"
    name = made if not config.name else config.name if alone else f"{config.name}-{digest}"
    return Path(config.out or "runs/benchmarks") / name.replace("/", "_")
