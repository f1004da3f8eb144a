"""One job of a command line: alone, or one of a sweep whose others neither suffer from it nor notice it."""
from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bdsa import ranks
from bdsa.commands.isolation import undisturbed
from bdsa.commands.one_line import as_user_error
from bdsa.config.schema import from_omegaconf
from bdsa.errors import UserError
from bdsa.runs import failures, made_folders
from bdsa.runs.contents import CONFIG, read_results
from bdsa.runs.environment import in_sweep
from bdsa.runs.output import LastingOutput
from bdsa.runs.standing import NotOurs


class Job:
    """What Hydra calls for a composed config; returns what a search maximises, or None.

    A UserError is one line. In a sweep any error is: its traceback is left in the job's folder, and the
    next job begins as if it were the first.

    Args:
        work: does it: `work(config, folder)`.
        schema: the dataclass of the config.

    Attributes:
        failed: for each failed job, whether only this process knows why.
    """

    def __init__(self, work: Callable[[Any, Path], None], schema: type) -> None:
        self.work, self.schema = work, schema
        self.failed: list[bool] = []

    def __call__(self, composed: DictConfig) -> float | None:
        ranks.adopt_submitted_job()
        folder, config = Path(HydraConfig.get().runtime.output_dir), None
        owns_folder = HydraConfig.get().sweep.subdir != "."  # elsewhere the jobs of a sweep share one
        try:
            with undisturbed() if in_sweep() else contextlib.nullcontext():
                config = from_omegaconf(self.schema, composed)
                self.work(config, folder)
        except (Exception, SystemExit) as met:  # some libraries end a process where they should raise
            if ranks.put_back(met):
                raise
            if isinstance(met, OSError) and met.errno and met.filename is None and owns_folder:
                met.filename = str(folder)  # of a library's that does not say which file in there
            error = as_user_error(met) or met
            if error is not met and owns_folder and (folder / CONFIG).exists():  # one line does not say where it broke
                failures.write(folder, met)
            if not isinstance(error, UserError) and not in_sweep():
                if owns_folder and folder.is_dir():
                    failures.write(folder, error)
                raise
            error.__traceback__ = met.__traceback__
            self._failed(error, folder, owns_folder, mine_alone=_is_known_here_alone(error, config))
            traceback.clear_frames(met.__traceback__)  # they hold the network, and the GPU's memory
            return None
        if ranks.is_main() and owns_folder:
            failures.clear(folder)
        return worth(getattr(config, "maximize", None), folder) if owns_folder else None

    def _failed(self, error: BaseException, folder: Path, owns_folder: bool, mine_alone: bool) -> None:
        """Say what went wrong; end where other processes wait for this one."""
        self.failed.append(mine_alone)
        if ranks.is_main() or mine_alone:
            if in_sweep() and owns_folder and not _is_of_others(error):
                where = f" (the traceback is in {failures.write(folder, error)})"
            else:
                where = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error))
            print(f"error: {failures.reason(error)}{where}", file=LastingOutput(sys.stderr), flush=True)
        made_folders.take_away(folder)
        if ranks.in_submitted_job() and (mine_alone or not owns_folder):
            raise error
        if ranks.world() > 1 and mine_alone and in_sweep():
            ranks.exit_failed(at_once=True)


def _is_of_others(error: BaseException) -> bool:
    """Whether a job was refused its folder, so that nothing may be written there."""
    return isinstance(error, NotOurs) or isinstance(error.__cause__, NotOurs)


def _is_known_here_alone(error: BaseException, config: Any) -> bool:
    """Whether the other processes of a job do not know of its error, so that they wait for this one."""
    return ranks.world() > 1 and not (isinstance(error, UserError) and (config is None or error.everywhere))


def worth(name: str | None, folder: Path) -> float | None:
    """What a finished run is worth to a search.

    Args:
        name: "mean" or "worst" top-1 over the trained budgets, or one budget's, such as "b030", in percent.
        folder: the run's.
    """
    results = None if name is None else read_results(folder)
    if results is None:
        return None
    top1 = {r["name"]: r["top1"] for r in results["rows"] if r["budget"] in results["trained_budgets"]}
    return {"mean": sum(top1.values()) / len(top1), "worst": min(top1.values()), **top1}[name]
