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


def check_start(config: BenchmarkConfig) -> None:
    """Raise UserError for what no benchmark can do: several processes, or a folder that is a file."""
    if ranks.world() > 1:
        raise UserError(f"bdsa-benchmark measures one process and was started in {ranks.world()}: start it without "
                        f"a launcher")
    if config.out is not None and Path(config.out).exists() and not Path(config.out).is_dir():
        raise UserError(f"out={config.out} is a file: name a folder")


def benchmark_folder(config: BenchmarkConfig, source: str, model: str, device: str) -> Path:
    """Where benchmark.json goes: as asked, else a folder of these settings, this device and number of threads.

    Args:
        config: all settings.
        source: what the images are, for the folder's name.
        model: the model's name, likewise.
        device: what is measured.
    """
    if config.out is not None:
        return Path(config.out)
    settings = json.dumps([asdict(config), device, torch.get_num_threads()], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    name = config.name or f"{config.what}-{source}-{model}-{device.partition(':')[0]}-{digest}"
    return Path("runs") / "benchmarks" / name.replace("/", "_")
