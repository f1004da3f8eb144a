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
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from bdsa import ranks
from bdsa.commands.job import Job
from bdsa.commands.one_line import as_user_error
from bdsa.config.names import SEARCHES
from bdsa.config.options import experiments, group_options, shipped_folder, sweeps
from bdsa.config.overrides import check_overrides, expand
from bdsa.config.ranges import with_ranges
from bdsa.config.schema import described_settings, setting_names
from bdsa.errors import UserError, unknown
from bdsa.runs.name import run_name
from bdsa.runs.output import LastingOutput

LAUNCHERS = ("basic", "joblib", "slurm", "submitit_local", "submitit_slurm")
SWEEPERS = ("basic", *SEARCHES, "pipeline")


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
    return [] if {"-m", "--multirun"} & {*arguments} else ["--multirun"]


def sweeper_arguments(arguments: list[str]) -> list[str]:
    """The flag that a search needs: Hydra asks a sweeper only in a multirun, and else ignores it silently.

    With `hydra.mode=RUN`, as in the command that a search's job records, it is not to be asked.

    Raises:
        UserError: for a sweeper of an extra that is not installed.
    """
    if "hydra.mode=RUN" in arguments:
        return []
    asked = next((a.partition("=")[2] for a in arguments if a.startswith("hydra/sweeper=")), "basic")
    preset = next((a.partition("=")[2] for a in arguments if a.startswith("sweep=")), None)
    if preset in sweeps() and asked == "basic":
        defaults = OmegaConf.load(sweeps()[preset]).get("defaults", [])
        asked = next((d["override /hydra/sweeper"] for d in defaults if "override /hydra/sweeper" in d), asked)
    if asked not in SWEEPERS:
        raise unknown("hydra/sweeper", asked, SWEEPERS)
    if asked in SEARCHES and ranks.world() > 1:
        raise UserError(f"hydra/sweeper={asked} in {ranks.world()} processes: each would search; start it without "
                        f"torchrun, and several processes a job with hydra/launcher=slurm")
    if asked in SEARCHES and not importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper"):
        raise UserError(f"{f'sweep={preset}' if preset else f'hydra/sweeper={asked}'} needs an extra: pip install "
                        f"'bdsa[optuna]'")
    return [] if asked == "basic" or {"-m", "--multirun"} & {*arguments} else ["--multirun"]


def launch(work: Callable[[Any, Path], None], schema: type, config_name: str) -> None:
    """Run `work(config, folder)` for the command line, once or for every job of a multirun.

    A UserError is printed as one line, by rank 0 where all processes found it; the exit code is 1 if any job
    failed. What a job of a multirun may do, and what becomes of the others: `bdsa.commands.job` and
    `bdsa.commands.sweep.sweeper`.
    """
    from bdsa.config import plugins  # here: it asks this module what is shipped

    try:
        if "plugins" in setting_names(schema):
            sys.argv[1:] = plugins.from_command_line(sys.argv[1:])
        options = plugins.with_options(group_options(config_name))
        sys.argv[1:] = [part for argument in sys.argv[1:] for part in expand(with_ranges(argument), options)]
        overrides = [a for a in sys.argv[1:] if a.startswith("~") or ("=" in a and not a.startswith("-"))]
        if {"-sc", "--shell-completion"} & {*sys.argv}:  # its install=bash and query=bash are no settings
            expand_typed(options)
        else:
            sys.argv[1:] = flags_first(sys.argv[1:])
            check_flags(sys.argv[1:])
            check_overrides(overrides, schema, options)
        sys.argv += [*launcher_arguments(sys.argv[1:]), *sweeper_arguments(sys.argv[1:])][:1]
    except UserError as error:
        if ranks.is_main():
            print(f"error: {error}", file=LastingOutput(sys.stderr), flush=True)
        ranks.exit_failed(at_once=False)
    prepare_hydra(schema, survivors="sweep" in options)
    job = Job(work, schema)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the trace of any error and exits itself
    try:
        hydra.main(config_path=str(shipped_folder("conf")), config_name=config_name, version_base="1.3")(job)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # before the job, where the config is composed and its folder made; or a submitted job's
        if (said := as_user_error(error)) is None:
            traceback.print_exc()
            sys.exit(1)
        if ranks.is_main():
            print(f"error: {said}", file=LastingOutput(sys.stderr), flush=True)
        ranks.exit_failed(at_once=False)
    if job.failed:
        ranks.exit_failed(at_once=any(job.failed))


def flags_first(arguments: list[str]) -> list[str]:
    """A command line with its flags, and their values, before its settings: between settings Hydra reads none.

    Examples: `model=resnet18 -m trainer.seed=0,1` becomes `-m model=resnet18 trainer.seed=0,1`.
    """
    known = {flag: action for action in get_args_parser()._actions for flag in action.option_strings}
    flags, settings, waiting = [], [], list(arguments)
    while waiting:
        word = waiting.pop(0)
        (flags if word.startswith("-") else settings).append(word)
        action = known.get(word)
        if action is not None and waiting and (action.nargs is None or waiting[0] in (action.choices or ())):
            flags.append(waiting.pop(0))  # its value
    return [*flags, *settings]


def check_flags(arguments: list[str]) -> None:
    """Raise UserError for an option that Hydra does not have; it would print its usage."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; settings are written NAME=VALUE, and --help lists them")

    parser.error = refuse
    parser.parse_args([a for a in arguments if a != "--version"])  # which would print and exit


def expand_typed(options: dict[str, list[str]]) -> None:
    """The command line that a shell asks to complete, as Hydra has to see it; its last word is still being typed."""
    *words, last = os.environ.get("COMP_LINE", "").split(" ")
    os.environ["COMP_LINE"] = " ".join([*(part for word in words for part in expand(word, options)), last])


def prepare_hydra(schema: type, survivors: bool = False) -> None:
    """Tell Hydra the defaults, the presets that are not under conf/, our resolvers and our sweepers.

    Args:
        survivors: the jobs of a multirun have a folder each, and are run by `bdsa.commands.sweep.sweeper`.
    """
    from hydra_plugins.bdsa import Grid, Pipeline  # here, because Hydra's own search imports them too, before this

    store = ConfigStore.instance()
    for sweeper in (Grid, Pipeline):  # Hydra's search does not find them where this package is installed as editable
        Plugins.instance().register(sweeper)
    with contextlib.suppress(ImportError):  # of an extra
        from hydra_plugins.bdsa.search import Search
        Plugins.instance().register(Search)
    grid = BasicSweeperConf
    if survivors:
        grid = {"_target_": "hydra_plugins.bdsa.Grid", "params": None, "rows": None, "only": None}
    store.store(group="hydra/sweeper", name="basic", node=grid, provider="hydra")  # a preset can still name another
    store.store(name="defaults", node=asdict(schema()))
    for group, files in (("experiment", experiments()), ("sweep", sweeps())):
        for name, path in files.items():
            store.store(group=group, name=name, node=OmegaConf.load(path), package="_global_")
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("settings", lambda *, _root_: "\n".join(described_settings(
        schema, OmegaConf.to_container(_root_))), replace=True)
