"""From a command line to a checked config: what the entry points share. Imports nothing heavy.

Hydra composes; a dozen lines before it catch misspelled settings and options, because its own
messages do not say what was meant.
"""
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bdsa.config import from_omegaconf, setting_names, unknown_setting
from bdsa.errors import UserError, unknown
from bdsa.run_name import run_name

FREE = ("model.args.",)  # below these any name is allowed: another library checks them


def shipped_folder(name: str) -> Path:
    """The folder `conf` or `experiments`, installed as bdsa.<name> or beside the package in a checkout."""
    spec = importlib.util.find_spec(f"bdsa.{name}")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).parents[1] / name


def experiments() -> dict[str, Path]:
    """The presets under experiments/: name -> file."""
    return {p.parent.name: p for p in sorted(shipped_folder("experiments").glob("*/preset.yaml"))}


def check_overrides(overrides: list[str], schema: type) -> None:
    """Raise UserError for the first override that names no setting, group or option."""
    conf = shipped_folder("conf")
    options = {g.name: sorted(p.stem for p in g.glob("*.yaml")) for g in conf.iterdir() if g.is_dir()}
    options["experiment"] = list(experiments())
    known = set(setting_names(schema))
    sections = {k.rpartition(".")[0] for k in known} - {""}
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(f"cannot read the command line: {str(error).splitlines()[0]}") from error
    for override in parsed:
        name = override.key_or_group
        if name.startswith("hydra") or override.is_delete():
            continue
        if name in options and name not in known:
            values = override.value().list if override.is_sweep_override() else [override.value()]
            if any(isinstance(v, (list, float, int)) for v in values):
                raise UserError(f"{override.input_line} is not an option of {name} ({', '.join(options[name])}); to set "
                                f"values write {override.input_line.replace('=', '.targets=', 1)}"
                                if name == "budgets" else f"{override.input_line} is not an option of {name}: "
                                f"{', '.join(options[name])}")
            for value in (v for v in values if isinstance(v, str)):
                if value not in options[name]:
                    hint = f"; for a name of your own write {name}.name={value}" if name in ("model", "teacher") else ""
                    raise UserError(f"{unknown(f'option of {name}', value, options[name])}{hint}")
        elif name not in known and name not in sections and not name.startswith(FREE):
            raise unknown_setting(name, schema)


def launch(work: Callable[[Any, Path], None], schema: type, config_name: str) -> None:
    """Run `work(config, folder)` for the command line, once or for every job of a multirun.

    A UserError is printed as one line; the exit code is 1 if any job failed.
    """
    store = ConfigStore.instance()
    store.store(name="defaults", node=asdict(schema()))
    for name, path in experiments().items():
        store.store(group="experiment", name=name, node=OmegaConf.load(path), package="_global_")
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    failed = []

    def job(composed: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            work(from_omegaconf(schema, composed), folder)
        except UserError as error:
            failed.append(folder)
            print(f"error: {error}", file=sys.stderr)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    try:
        check_overrides([a for a in sys.argv[1:] if not a.startswith("-")], schema)
    except UserError as error:
        sys.exit(f"error: {error}")
    hydra.main(config_path=str(shipped_folder("conf")), config_name=config_name, version_base="1.3")(job)()
    if failed:
        sys.exit(1)
