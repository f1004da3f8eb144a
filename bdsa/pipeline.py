"""The two stages of the paper with one command: `bdsa-pipeline`; see --help, and `bdsa.pipeline_sweeper`."""
from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from bdsa.cli import launch
from bdsa.config import TrainConfig
from bdsa.pipeline_config import PipelineConfig


def main() -> None:
    """Entry point of bdsa-pipeline."""
    launch(_train, PipelineConfig, "pipeline")


def _train(config: PipelineConfig, folder: Path) -> None:
    """One of its runs is a training like any other."""
    from bdsa.trainer import train  # torch and timm take seconds: --help and shell completion do not wait

    train(TrainConfig(**{part.name: getattr(config, part.name) for part in fields(TrainConfig)}), folder)


if __name__ == "__main__":
    main()
