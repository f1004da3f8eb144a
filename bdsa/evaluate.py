"""Measure a trained network at any of its budgets, or a dense one: `bdsa-evaluate`; see --help."""
from __future__ import annotations

from pathlib import Path

from bdsa.cli import launch
from bdsa.command_config import EvaluateConfig


def main() -> None:
    """Entry point of bdsa-evaluate."""
    launch(_evaluate, EvaluateConfig, "evaluate")


def _evaluate(config: EvaluateConfig, folder: Path) -> None:
    from bdsa.measurement import measure  # torch and timm take seconds: --help does not wait

    measure(config)


if __name__ == "__main__":
    main()
