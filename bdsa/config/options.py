"""What is shipped to choose from: the groups under conf/ with their options, the presets, the sweeps."""
from __future__ import annotations

import importlib.util
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def shipped_folder(name: str) -> Path:
    """The folder `conf`, `experiments` or `sweeps`, installed as bdsa.<name> or beside the package in a checkout."""
    spec = importlib.util.find_spec(f"bdsa.{name}")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).parents[2] / name


def experiments() -> dict[str, Path]:
    """The presets under experiments/: name -> file."""
    return {p.parent.name: p for p in sorted(shipped_folder("experiments").glob("*/preset.yaml"))}


def sweeps() -> dict[str, Path]:
    """The sweeps under sweeps/: name -> file."""
    return {p.stem: p for p in sorted(shipped_folder("sweeps").glob("*.yaml"))}


def group_options(config_name: str) -> dict[str, list[str]]:
    """The groups in a config's defaults list, and their options."""
    conf = shipped_folder("conf")
    groups = [g for entry in OmegaConf.load(conf / f"{config_name}.yaml").defaults if isinstance(entry, DictConfig)
              for g in entry if not g.startswith("override ")]
    options = {g: sorted(p.stem for p in (conf / g).glob("*.yaml")) for g in groups}
    stored = {"experiment": experiments, "sweep": sweeps}  # not under conf/
    return {**options, **{group: list(files()) for group, files in stored.items() if group in options}}
