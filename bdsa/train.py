"""Train a network for any number of budgets: `bdsa-train` or `python -m bdsa.train`; see --help."""
from __future__ import annotations

from pathlib import Path

from bdsa.cli import launch
from bdsa.config import TrainConfig
from bdsa.run_name import sweep_name


def main() -> None:
    """Entry point of bdsa-train."""
    launch(_train, TrainConfig, "train")


def _train(config: TrainConfig, folder: Path) -> None:
    from bdsa.trainer import train  # torch and timm take seconds: --help and shell completion do not wait

    config.tracker.group = config.tracker.group or sweep_name()
    train(config, folder)


if __name__ == "__main__":
    main()
