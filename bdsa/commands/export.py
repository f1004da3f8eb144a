"""The work of bdsa-export: a trained network as one file, safetensors or for other programs."""
from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bdsa.budgets import Budgets
from bdsa.commands.export_program import export_program
from bdsa.commands.result_folders import exported_file
from bdsa.config.commands import ExportConfig
from bdsa.errors import UserError, first_line
from bdsa.models import checkpoints
from bdsa.models.digest import state_digest
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.weights_file import write_weights_file
from bdsa.report.terminal import human_count


def export(config: ExportConfig, named: Collection[str] = ()) -> Path:
    """The work of bdsa-export: check, write, and say what is in the file.

    Args:
        config: the command's.
        named: the settings that the command line names, whatever their values are.
    """
    path = exported_file(config)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file with out=...")
    if config.format == "safetensors":
        _check_safetensors(config, named)
    content = checkpoints.read_checkpoint(config.checkpoint, "bdsa-export takes no other, dense weights and the "
                                          "authors' code's among them; name best.pt of a training")
    network = checkpoints.load_network(content, config.checkpoint)
    if config.curves is not None:
        content.update(_measured(config.curves, network, config.checkpoint))
    if config.format != "safetensors":
        export_program(config, network, content, path, named)
        return path
    write_weights_file(path, content, config.attribution)
    names = ", ".join(f"{b:g}" for b in Budgets(content["model"]["budgets"]))
    print(f"{content['model']['name']} for budgets {names}: "
          f"{human_count(sum(p.numel() for p in network.parameters()))} parameters")
    if not content.get("calibrated"):
        print("note: this checkpoint was written in mid-training: its thresholds are not calibrated")
    if not content.get("curves") and network.budgets.adaptive:
        print("note: the file has no curves, so that it can be asked for these budgets alone: bdsa-evaluate with "
              "budgets between measures them, and curves=ITS_RESULTS_JSON puts them in")
    print(f"  {path}  ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def _check_safetensors(config: ExportConfig, named: Collection[str]) -> None:
    """Raise UserError for what is of an exported program alone: a safetensors file has no such thing."""
    programs = "is for format=pt2, aoti and onnx:"
    if config.budgets.targets is not None:
        raise UserError(f"budgets.targets {programs} a safetensors file has all budgets")
    for name in ("per_image", "cascade"):
        if getattr(config, name):
            raise UserError(f"{name}=true {programs} bdsa.load's network takes {name} as it is")
    if config.between:
        raise UserError(f"between=true {programs} bdsa.load's network takes any budget between where the checkpoint "
                        f"has curves")
    if config.precision != "float32":
        raise UserError(f"precision={config.precision} {programs} bdsa.load's network takes its precision in code, and "
                        f"the file keeps all digits")
    if others := sorted(name for name in named if name == "images" or name.startswith("data")):
        raise UserError(f"{others[0]} {programs} a safetensors file is not compared on images")


def _measured(path: str, network: AdaptiveNetwork, checkpoint: str) -> dict[str, Any]:
    """The curves of a results.json, and how sure first answers are: for a network of the same budgets and blocks, which
    takes them over."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        kept = {key: found[key] for key in ("curves", "confidence") if found.get(key)}
        if not kept or not all(isinstance(each, dict) for each in kept.values()):
            raise ValueError("it has neither curves nor confidence")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"curves={path} is no results.json with curves ({first_line(error)}): bdsa-evaluate writes one "
                        f"where it is asked for budgets between those that were trained") from error
    if found.get("weights_digest", digest := state_digest(network)) != digest:
        raise UserError(f"curves={path} was measured with other weights than checkpoint={checkpoint}: measure its own "
                        f"with bdsa-evaluate checkpoint={checkpoint}")
    if "curves" in kept:
        network.curves = checkpoints.fitting_curves(kept["curves"], network, f"curves={path}")
    if "confidence" in kept:
        network.confidence = checkpoints.fitting_confidence(kept["confidence"], network, f"curves={path}")
    return kept
