"""Write a trained network as one safetensors file: `bdsa-export`; see --help."""
from __future__ import annotations

from pathlib import Path

from bdsa.cli import launch
from bdsa.command_config import ExportConfig


def main() -> None:
    """Entry point of bdsa-export."""
    launch(_export, ExportConfig, "export")


def _export(config: ExportConfig, folder: Path) -> None:
    from bdsa.weights_file import export  # torch and timm take seconds: --help does not wait
    export(config)


if __name__ == "__main__":
    main()
