"""The jobs of a sweep before and after it ran: which folder is whose, and how each stands, as the disk says.

What a job's process returns or prints does not count: it may have been killed, or be on another machine.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from bdsa.commands.one_line import as_user_error
from bdsa.config.schema import from_omegaconf
from bdsa.errors import UserError
from bdsa.runs import failures
from bdsa.runs.contents import CONFIG, RESULTS, read_results
from bdsa.runs.folder import RunFolder

FINISHED = ("done", "resumed", "skipped")


@dataclass
class PlannedJob:
    """A job and its folder.

    Attributes:
        overrides: its command line, words of NAME=VALUE.
        error: why it cannot start at all.
        invalid: what is wrong with its settings, where it will fail by them.
        finished: it has a result from before.
        begun: it has a checkpoint to go on from.
        maximize: which number a search takes from it.
        fresh: it would begin anew if it were given again.
    """
    overrides: list[str]
    folder: Path
    error: str | None = None
    invalid: str | None = None
    finished: bool = False
    begun: bool = False
    maximize: str | None = None
    fresh: bool = False
    _marks: dict[str, int] = field(default_factory=dict)  # results and failure files from before, by their time

    def __post_init__(self) -> None:
        self._marks = {name: _time_of(self.folder / name) for name in (RESULTS, failures.NAME)}

    @property
    def state(self) -> str:
        """skipped | done | resumed | failed | stopped | not started."""
        if self.error is not None or self._is_new(failures.NAME):
            return "failed"
        if self.finished:
            return "skipped"
        if self._is_new(RESULTS):
            return "resumed" if self.begun else "done"
        return "stopped" if (self.folder / CONFIG).exists() else "not started"

    def results(self) -> dict[str, Any] | None:
        """Its results, where it has finished; one whose file is damaged has failed."""
        if self.state not in FINISHED:
            return None
        try:
            return read_results(self.folder)
        except UserError as error:
            self.error = str(error)
            return None

    @property
    def reason(self) -> str | None:
        """Why it failed, in one line."""
        return self.error or (failures.read_reason(self.folder) if self.state == "failed" else None)

    def _is_new(self, name: str) -> bool:
        return _time_of(self.folder / name) not in (0, self._marks[name])


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def plan(overrides: Sequence[str], load: Callable[[list[str]], DictConfig], schema: type) -> PlannedJob:
    """Compose a job, check it, and find its folder.

    Args:
        load: composes Hydra's config of a job.
        schema: of the job's config.
    """
    composed = load(list(overrides))
    try:
        folder = Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
    except OmegaConfBaseException as error:
        raise as_user_error(error) from error
    with open_dict(composed):
        del composed["hydra"]
    job = PlannedJob(list(overrides), folder)
    try:
        config: Any = from_omegaconf(schema, composed)
    except UserError as error:  # no other job's business: it fails when its turn comes, and says so in its folder
        job.invalid = str(error)
        return job
    job.maximize, job.fresh = config.maximize, config.trainer.fresh
    try:
        run = RunFolder(folder, asdict(config), config.trainer.fresh)
        run.check_free()
    except (UserError, OSError) as error:  # somebody else's folder: nothing may be written there
        job.error = str(error)
        return job
    job.finished, job.begun = run.done, run.resumes
    return job


def check_folders(jobs: Sequence[PlannedJob]) -> None:
    """Raise UserError if two jobs would write to one folder."""
    seen: dict[Path, int] = {}
    for number, job in enumerate(jobs, 1):
        if job.folder in seen:
            other = jobs[seen[job.folder] - 1]
            differ = [a for a in changing([other, job])[1].split() if a]
            why = (f"they differ in {', '.join(d.partition('=')[0] for d in differ)} alone, and the folder's name does "
                   f"not" if differ else "they have the same settings: name each value once")
            if fixed := next((a for a in job.overrides if a.startswith("name=")), None):
                why = f"{fixed} names them alike: leave it out, names are made from the settings"
            raise UserError(f"jobs {seen[job.folder]} and {number} of the sweep have one folder, {job.folder}: {why}")
        seen[job.folder] = number


def changing(jobs: Sequence[PlannedJob]) -> list[str]:
    """For each job, the settings in which the jobs differ, but for where their folders go; of a single job, all."""
    parsed = [{o.key_or_group: o.input_line for o in OverridesParser.create().parse_overrides(j.overrides)}
              for j in jobs]
    names = dict.fromkeys(name for job in parsed for name in job)
    shown = [n for n in names if n != "out" and (len(jobs) == 1 or len({job.get(n) for job in parsed}) > 1)]
    return [" ".join(job[n] for n in shown if n in job) for job in parsed]
