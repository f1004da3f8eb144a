"""Show where a trained network computes at each budget: `bdsa-visualize`; see --help."""
from __future__ import annotations

from pathlib import Path

from bdsa.cli import launch
from bdsa.visualize_config import VisualizeConfig


def main() -> None:
    """Entry point of bdsa-visualize."""
    launch(_visualize, VisualizeConfig, "visualize")


def _visualize(config: VisualizeConfig, folder: Path) -> None:
    from bdsa.visualization import visualize  # torch and timm take seconds: --help does not wait

    visualize(config)


if __name__ == "__main__":
    main()
