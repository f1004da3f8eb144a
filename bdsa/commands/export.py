"""The work of bdsa-export: a trained network as one safetensors file."""
from __future__ import annotations

from pathlib import Path

from bdsa.budgets import Budgets
from bdsa.config.commands import ExportConfig
from bdsa.errors import UserError
from bdsa.models import checkpoints
from bdsa.models.weights_file import write_weights_file
from bdsa.report.terminal import human_count


def export(config: ExportConfig) -> Path:
    """The work of bdsa-export: check, write, and say what is in the file."""
    content = checkpoints.read_checkpoint(config.checkpoint)
    network = checkpoints.load_network(content, config.checkpoint)
    path = Path(config.out) if config.out else Path(config.checkpoint).with_suffix(".safetensors")
    if path.suffix != ".safetensors":
        raise UserError(f"out={config.out} must end in .safetensors")
    if path.is_dir():
        raise UserError(f"out={config.out} is a folder: name a file")
    write_weights_file(path, content, config.attribution)
    names = ", ".join(f"{b:g}" for b in Budgets(content["model"]["budgets"]))
    print(f"{content['model']['name']} for budgets {names}: "
          f"{human_count(sum(p.numel() for p in network.parameters()))} parameters")
    if not content.get("calibrated"):
        print("note: this checkpoint was written in mid-training: its thresholds are not calibrated")
    print(f"  {path}  ({path.stat().st_size / 1e6:.1f} MB)")
    return path
