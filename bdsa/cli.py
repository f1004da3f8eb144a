"""From a command line to a checked config: what the entry points share. Imports nothing heavy.

Hydra composes; a dozen lines before it catch misspelled settings and options, because its own
messages do not say what was meant.
"""
from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bdsa import ranks
from bdsa.config import described_settings, setting_names, unknown_setting
from bdsa.errors import UserError, nearest, unknown
from bdsa.jobs import Job
from bdsa.models import WEIGHT_SUFFIXES
from bdsa.pipeline_config import STAGE_SETTINGS
from bdsa.run_name import run_name

# Below these any name is allowed: another library checks them, or the pipeline.
FREE = ("model.args.", *STAGE_SETTINGS)
LAUNCHERS = ("basic", "joblib", "slurm", "submitit_local", "submitit_slurm")
SWEEPERS = ("basic", "search", "optuna", "pipeline")


def shipped_folder(name: str) -> Path:
    """The folder `conf`, `experiments` or `sweeps`, installed as bdsa.<name> or beside the package in a checkout."""
    spec = importlib.util.find_spec(f"bdsa.{name}")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).parents[1] / name


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


def expand(argument: str, options: dict[str, list[str]]) -> list[str]:
    """`model=NAME` and `teacher=NAME or FILE` for any model, not only those with a file under conf/."""
    group, _, value = argument.partition("=")
    if group.startswith(STAGE_SETTINGS):
        return [f"++{argument}"]  # they are there only once they are set
    if group not in ("model", "teacher") or group not in options or not value:
        return [argument]
    if all(v in options[group] for v in value.split(",")):
        return [argument]
    if group == "model":
        return [f"model.name={value}"]
    if Path(value).suffix in WEIGHT_SUFFIXES:
        return ["teacher=checkpoint", f"teacher.weights={value}"]
    return [argument] if nearest(value, options[group]) or "," in value else ["teacher=model", f"teacher.name={value}"]


def check_overrides(overrides: list[str], schema: type, options: dict[str, list[str]]) -> None:
    """Raise UserError for the first override that names no setting, group or option."""
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
        if name in options:
            values = getattr(override.value(), "list", []) if override.is_sweep_override() else [override.value()]
            if any(isinstance(v, (list, float, int)) for v in values):
                hint = f": write {override.input_line.replace('=', '.targets=', 1)}" if name == "budgets" else ""
                raise UserError(f"{override.input_line} is no option of {name} ({', '.join(options[name])}){hint}")
            for value in (v for v in values if isinstance(v, str)):
                if value not in options[name]:
                    raise unknown(f"option of {name}", value, options[name])
        elif name in sections and not isinstance(override.value(), dict):
            raise UserError(f"{override.input_line}: {name} is a section, set its values: "
                            f"{', '.join(k for k in sorted(known) if k.startswith(name + '.'))}")
        elif name not in known | sections and not name.startswith(FREE):
            raise unknown_setting(name, schema)


def launcher_arguments(arguments: list[str]) -> list[str]:
    """The flag that a launcher needs: Hydra asks it for the jobs of a multirun alone, and else ignores it silently.

    Raises:
        UserError: in several processes, for a launcher of an extra that is not installed, or without Slurm.
    """
    asked = next((a.partition("=")[2] for a in arguments if a.startswith("hydra/launcher=")), "basic")
    if asked == "basic":
        return []
    if asked not in LAUNCHERS:
        raise unknown("hydra/launcher", asked, LAUNCHERS)
    if ranks.world() > 1:
        raise UserError(f"hydra/launcher={asked} in {ranks.world()} processes: each would launch all jobs; start it "
                        f"without torchrun, its hydra.launcher.tasks_per_node are the processes")
    if (asked == "slurm" or asked.startswith("submitit")) and not importlib.util.find_spec("submitit"):
        raise UserError(f"hydra/launcher={asked} needs an extra: pip install 'bdsa[slurm]'")
    if asked == "joblib" and not importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        raise UserError("hydra/launcher=joblib needs an extra: pip install 'bdsa[joblib]'")
    if asked in ("slurm", "submitit_slurm") and not shutil.which("srun"):
        raise UserError(f"hydra/launcher={asked} needs Slurm's srun, which is not here: start it on a login node")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints the trace of a job's error and exits itself
    return [] if {"-m", "--multirun"} & {*arguments} else ["--multirun"]


def sweeper_arguments(arguments: list[str]) -> list[str]:
    """The flag that a search needs: Hydra asks a sweeper only in a multirun, and else ignores it silently.

    Raises:
        UserError: for a sweeper of an extra that is not installed.
    """
    asked = next((a.partition("=")[2] for a in arguments if a.startswith("hydra/sweeper=")), "basic")
    preset = next((a.partition("=")[2] for a in arguments if a.startswith("sweep=")), None)
    if preset in sweeps() and asked == "basic":
        defaults = OmegaConf.load(sweeps()[preset]).get("defaults", [])
        asked = next((d["override /hydra/sweeper"] for d in defaults if "override /hydra/sweeper" in d), asked)
    if asked not in SWEEPERS:
        raise unknown("hydra/sweeper", asked, SWEEPERS)
    if asked in ("search", "optuna") and ranks.world() > 1:
        raise UserError(f"hydra/sweeper={asked} in {ranks.world()} processes: each would search; start it without "
                        f"torchrun, and several processes a job with hydra/launcher=slurm")
    if asked in ("search", "optuna") and not importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper"):
        raise UserError(f"{f'sweep={preset}' if preset else f'hydra/sweeper={asked}'} needs an extra: pip install "
                        f"'bdsa[optuna]'")
    return [] if asked == "basic" or {"-m", "--multirun"} & {*arguments} else ["--multirun"]


def launch(work: Callable[[Any, Path], None], schema: type, config_name: str) -> None:
    """Run `work(config, folder)` for the command line, once or for every job of a multirun.

    A UserError is printed as one line, by rank 0 where all processes found it; the exit code is 1 if any job
    failed. What a job of a multirun may do, and what becomes of the others: `bdsa.jobs`, `bdsa.sweeper`.
    """
    from bdsa import plugins  # here: it asks this module what is shipped

    try:
        if "plugins" in setting_names(schema):
            sys.argv[1:] = plugins.from_command_line(sys.argv[1:])
        options = plugins.with_options(group_options(config_name))
        sys.argv[1:] = [part for argument in sys.argv[1:] for part in expand(argument, options)]
        overrides = [a for a in sys.argv[1:] if "=" in a and not a.startswith("-")]
        check_overrides(overrides, schema, options)
        sys.argv += [*launcher_arguments(sys.argv[1:]), *sweeper_arguments(sys.argv[1:])][:1]
    except UserError as error:
        if ranks.is_main():
            print(f"error: {error}", file=sys.stderr, flush=True)
        ranks.exit_failed(at_once=False)
    prepare_hydra(schema, survivors="sweep" in options)
    job = Job(work, schema)
    try:
        hydra.main(config_path=str(shipped_folder("conf")), config_name=config_name, version_base="1.3")(job)()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:  # of a submitted job, with HYDRA_FULL_ERROR
        sys.exit(f"error: {error}")
    if job.failed:
        ranks.exit_failed(at_once=any(job.failed))


def prepare_hydra(schema: type, survivors: bool = False) -> None:
    """Tell Hydra the defaults, the presets that are not under conf/, our resolvers and our sweepers.

    Args:
        survivors: the jobs of a multirun have a folder each, and are run by `bdsa.sweeper`.
    """
    from hydra_plugins.bdsa import Grid, Pipeline  # here, because Hydra's own search imports them too, before this

    store = ConfigStore.instance()
    for sweeper in (Grid, Pipeline):  # Hydra's search does not find them where this package is installed as editable
        Plugins.instance().register(sweeper)
    with contextlib.suppress(ImportError):  # of an extra
        from hydra_plugins.bdsa.search import Search
        Plugins.instance().register(Search)
    grid = {"_target_": "hydra_plugins.bdsa.Grid", "params": None} if survivors else BasicSweeperConf
    store.store(group="hydra/sweeper", name="basic", node=grid, provider="hydra")  # a preset can still name another
    store.store(name="defaults", node=asdict(schema()))
    for group, files in (("experiment", experiments()), ("sweep", sweeps())):
        for name, path in files.items():
            store.store(group=group, name=name, node=OmegaConf.load(path), package="_global_")
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("settings", lambda *, _root_: "\n".join(described_settings(
        schema, OmegaConf.to_container(_root_))), replace=True)
