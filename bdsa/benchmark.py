"""Measure how fast a training or a trained network goes on this machine: `bdsa-benchmark`; see --help."""
from __future__ import annotations

from importlib import import_module
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from bdsa.benchmark_config import BENCHMARKS, BenchmarkConfig
from bdsa.cli import launch


def main() -> None:
    """Entry point of bdsa-benchmark."""
    launch(_benchmark, BenchmarkConfig, "benchmark")


def _benchmark(config: BenchmarkConfig, folder: Path) -> None:
    named = frozenset(o.partition("=")[0].lstrip("+") for o in HydraConfig.get().overrides.task)
    import_module(BENCHMARKS[config.what]).benchmark(config, named)  # torch and timm take seconds: --help does not wait


if __name__ == "__main__":
    main()
