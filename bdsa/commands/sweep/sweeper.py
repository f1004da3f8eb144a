"""Sweeps that survive: every job runs whatever happens to the others, and none runs twice.

`Survivor` stands before any of Hydra's launchers (in this process, joblib, submitit), so that every sweeper
gets the same: finished jobs are not launched again, a failed one does not stop the rest, and all are
listed at the end. Hydra finds the sweepers themselves in `hydra_plugins.bdsa`.
"""
from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from bdsa import ranks
from bdsa.commands.job import Job, worth
from bdsa.commands.one_line import as_user_error
from bdsa.commands.sweep.plan import FINISHED, PlannedJob, changing, check_folders, plan
from bdsa.commands.sweep.report import report
from bdsa.commands.sweep.rows import chosen_rows, combinations, in_rows
from bdsa.errors import UserError
from bdsa.runs import failures
from bdsa.runs.output import LastingOutput


class Survivor:
    """A launcher that launches what is not done yet, through another one.

    Attributes:
        jobs: all that it was asked for.
    """

    def __init__(self, launcher: Any, config: DictConfig, context: HydraContext, task: Job) -> None:
        self.launcher, self.config, self.context, self.task = launcher, config, context, task
        self.jobs: list[PlannedJob] = []
        self.trouble: list[str] = []  # of the launcher itself

    def plan(self, batch: Sequence[Sequence[str]]) -> list[PlannedJob]:
        """Compose and check every job of a batch."""
        return [plan(overrides, self.compose, self.task.schema) for overrides in batch]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Hydra's interface, for sweepers that ask for a batch after a batch."""
        return self.run(self.plan(job_overrides), initial_job_idx)

    def run(self, jobs: list[PlannedJob], first: int = 0) -> list[JobReturn]:
        """Run jobs; what each returns is what a search maximises, None for one that did not finish."""
        self.jobs += jobs
        ready = [(first + i, job) for i, job in enumerate(jobs) if not job.finished and job.error is None]
        for i, job in enumerate(jobs, first + 1):
            if job.error:
                _say(f"error: job {i}: {job.error}", sys.stderr)
            elif job.finished and ranks.is_main():
                failures.clear(job.folder)
        begun = sum(job.begun for _, job in ready)
        if len(jobs) > 1:  # a search asks for one after another
            _say(f"{len(jobs)} jobs: {sum(j.finished for j in jobs)} finished before, {begun} to go on with, "
                 f"{len(ready) - begun} to start")
        # In this process one after another, so that each can be announced; others get all at once.
        here = self.config.hydra.launcher._target_.endswith(".BasicLauncher")
        settings = changing(jobs)
        for group in [[pair] for pair in ready] if here else [ready] if ready else []:
            if here:
                number, of = group[0][0], f" of {first + len(jobs)}" if len(jobs) > 1 else ""
                _say(f"\njob {number + 1}{of}: {settings[number - first]}")
            try:
                self.launcher.launch([job.overrides for _, job in group], initial_job_idx=group[0][0])
            except Exception as error:  # a job that was killed, so that it could not say why; the disk knows the others
                self.trouble.append(f"the launcher ended early: {failures.reason(error)}")
                _say(f"error: {self.trouble[-1]}", sys.stderr)
        if ranks.world() > 1:
            from bdsa.distributed import barrier  # torch, which a sweep of one process loads in its jobs alone

            barrier()  # only then has rank 0 written what all judge the jobs by
        return [_returned(job) for job in jobs]

    def finished(self) -> list[PlannedJob]:
        """The jobs that have a result."""
        return [job for job in self.jobs if job.state in FINISHED]

    def compose(self, overrides: list[str]) -> DictConfig:
        """Hydra's config of a job.

        Raises:
            UserError: if there is none.
        """
        try:
            composed = self.context.config_loader.load_sweep_config(self.config, overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"{shlex.join(overrides)} cannot be composed: {as_user_error(error)}") from error
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = 0
        return composed


class Grid:
    """A sweeper of every combination of values, those of a preset (`hydra.sweeper.params`) and of the command line.

    A value on the command line takes the place of the preset's values of the same setting. A preset with rows
    (`hydra.sweeper.rows`) has all combinations once a row: see `bdsa.commands.sweep.rows`.

    Args:
        params: setting -> its values, as a command line has them.
        rows: name -> further words.
        only: names of the rows to run; None: all.
    """

    def __init__(self, params: dict[str, str] | None = None, rows: dict[str, str] | None = None,
                 only: Sequence[str] | None = None) -> None:
        self.params, self.rows, self.only = params or {}, rows or {}, only

    def setup(self, *, hydra_context: HydraContext, task_function: Job, config: DictConfig) -> None:
        """Hydra's interface: what to sweep, and with what to launch it."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)
        self.launcher = Survivor(launcher, config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> None:
        """Run all combinations and report; ends the process with an error if not all are finished."""
        with reporting(self.launcher):
            rows = chosen_rows(self.rows, self.only)
            jobs = self.launcher.plan(in_rows(self.params, rows, arguments) if rows else
                                      combinations(self.params, arguments))
            check_folders(jobs)
            self.launcher.run(jobs)


@contextlib.contextmanager
def reporting(launcher: Survivor, best: bool = False, last: Callable[[], None] | None = None) -> Iterator[None]:
    """Report a sweep when the block is left, also by Ctrl-C; end the process if not all jobs are finished.

    Args:
        best: name the job that is worth most.
        last: says more behind it.
    """
    try:
        yield
    except UserError as error:  # before any job ran: all processes found it
        _say(f"error: {error}", sys.stderr)
        ranks.exit_failed(at_once=False)
    except KeyboardInterrupt:
        if launcher.jobs and ranks.is_main():
            with contextlib.redirect_stdout(LastingOutput(sys.stdout)):
                report(launcher.jobs)
        raise
    if ranks.is_main():
        with contextlib.redirect_stdout(LastingOutput(sys.stdout)):
            report(launcher.jobs, best)
            if last is not None:
                last()
    if launcher.trouble or len(launcher.finished()) < len(launcher.jobs):
        ranks.exit_failed(at_once=False)


def _returned(job: PlannedJob) -> JobReturn:
    made = JobReturn(overrides=job.overrides, working_dir=str(Path.cwd()), status=JobStatus.COMPLETED)
    made.return_value = worth(job.maximize, job.folder) if job.results() is not None else None
    return made


def _say(text: str, file: Any = None) -> None:
    if ranks.is_main():
        print(text, file=LastingOutput(file or sys.stdout), flush=True)
