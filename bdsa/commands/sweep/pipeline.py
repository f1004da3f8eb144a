"""The pipeline as two sweeps: a run for every budget alone; then, with their top-1 as targets, runs of all budgets.

Both stages are jobs like those of any sweep (`bdsa.commands.sweep.sweeper`): any launcher, finished ones are skipped.
The targets file is named by its numbers, so that a run that was trained for other targets is another run.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bdsa import ranks
from bdsa.budgets import Budgets
from bdsa.commands.sweep.pipeline_table import show_tables
from bdsa.commands.sweep.plan import FINISHED, PlannedJob, check_folders
from bdsa.commands.sweep.rows import combinations
from bdsa.commands.sweep.study import Study
from bdsa.commands.sweep.sweeper import Grid, reporting
from bdsa.commands.targets import collect
from bdsa.config.commands import TargetsConfig
from bdsa.config.pipeline import MADE_HERE, PipelineSettings, flat_settings
from bdsa.config.schema import from_omegaconf
from bdsa.errors import UserError
from bdsa.report.networks import setting
from bdsa.runs.output import LastingOutput
from bdsa.runs.target_runs import mean_top1, read_runs, table


class Pipeline(Grid):
    """A sweeper: every combination of the command line's values gets both stages."""

    def sweep(self, arguments: list[str]) -> None:
        """Run both stages, report, and end the process with an error if not all is finished."""
        home, studies = Path(self.config.out), []
        with reporting(self.launcher, last=lambda: show_tables(studies, home)):
            if self.rows:
                raise UserError(f"bdsa-pipeline makes its own rows, and this sweep has {', '.join(self.rows)}: run it "
                                f"with bdsa-train")
            check_arguments([*arguments, *(f"{name}={values}" for name, values in self.params.items())])
            settings = from_omegaconf(PipelineSettings, self.config.pipeline)
            studies += self._studies(arguments)
            self._plan_singles(studies, settings, home)
            self._plan_multi(studies, settings, home)  # without targets: what cannot be is said before any training
            singles, multi = ([job for stage in stages for jobs in stage.values() for job in jobs]
                              for stages in ([s.singles for s in studies], [s.multi for s in studies]))
            for jobs in (singles, multi):
                if all(job.invalid for job in jobs):  # a setting that no run of it can have
                    raise UserError(jobs[0].invalid)
            for study in studies:
                study.multi = {}
            self._run("single-budget runs", singles)
            ready = [s for s in studies if all(j.state in FINISHED for jobs in s.singles.values() for j in jobs)]
            for study in ready:
                study.targets = write_targets(study, home)
            self._plan_multi(ready, settings, home)
            self._run("runs of all budgets", [j for s in ready for jobs in s.multi.values() for j in jobs])
            if len(ready) < len(studies):
                self.launcher.trouble.append("no targets")
                _say("runs of all budgets were not started where a single-budget run, and so a target, is missing")

    def _studies(self, arguments: Sequence[str]) -> list[Study]:
        shared = [*self._own_choices(arguments), *(a for a in arguments if not _name(a).startswith("pipeline."))]
        studies: dict[tuple[str, ...], Study] = {}
        for words in combinations(self.params, shared):
            key = tuple(w for w in words if _name(w) not in ("trainer.seed", "out", "tracker.group"))
            if key not in studies:
                composed = self.launcher.compose(words)
                if composed.name is not None:
                    raise UserError(f"the settings name a run, name={composed.name}, and a pipeline has many: add "
                                    f"name=null")
                studies[key] = Study(list(key), Budgets(list(composed.budgets.targets)))
            studies[key].seeds.append(words)
        return list(studies.values())

    def _own_choices(self, arguments: Sequence[str]) -> list[str]:
        """What bdsa-pipeline chooses otherwise than bdsa-train, in words: a run's command then makes it alone."""
        names = {*map(_name, arguments), *self.params}
        recipe = f"recipe={self.config.hydra.runtime.choices.recipe}"
        own = [] if names & {"recipe", "experiment"} else [recipe]
        return own if "tracker.group" in names else [*own, setting("tracker.group", Path(self.config.out).name)]

    def _plan_singles(self, studies: list[Study], settings: PipelineSettings, home: Path) -> None:
        known: dict[Path, PlannedJob] = {}  # studies may share runs, such as those of a budget in two lists
        for study in studies:
            for budget in study.budgets:
                jobs = self.launcher.plan([
                    [*words, *as_words(settings.single), "awareness.metric=none", f"budgets.targets=[{budget}]",
                     setting("out", str(home / "singles"))] for words in study.seeds])
                check_folders(jobs)
                study.singles[budget] = [known.setdefault(job.folder, job) for job in jobs]

    def _plan_multi(self, studies: list[Study], settings: PipelineSettings, home: Path) -> None:
        for study in studies:
            for metric in settings.metrics:
                targets = study.targets or home / "targets.csv"
                aware = [] if metric == "none" else [setting("awareness.targets", str(targets)), "awareness.row=null"]
                study.multi[metric] = self.launcher.plan([
                    [*words, *as_words(settings.multi), f"awareness.metric={metric}", *aware,
                     setting("out", str(home / "multi"))]
                    for words in study.seeds])
        check_folders([job for study in studies for jobs in study.multi.values() for job in jobs])

    def _run(self, what: str, jobs: list[PlannedJob]) -> None:
        jobs = list({id(job): job for job in jobs}.values())
        if jobs:
            _say(f"\n{what}:")
            self.launcher.run(jobs, first=len(self.launcher.jobs))


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError for a setting that the pipeline chooses itself, and for several values of its own ones."""
    for argument in arguments:
        name, override = _name(argument), OverridesParser.create().parse_override(argument)
        if name in MADE_HERE and not (name == "name" and override.value() is None):
            raise UserError(f"{argument} is the pipeline's own to choose: give it {MADE_HERE[name]}")
        if name.startswith("pipeline.") and override.is_sweep_override():
            metrics = dict.fromkeys(re.findall(r"\w+", argument.partition("=")[2]))
            one = f"write {name}=[{','.join(metrics)}]" if name == "pipeline.metrics" else \
                f"give one; {name.split('.', 2)[-1]}, which is of both stages, may have several"
            raise UserError(f"{argument.lstrip('+')} is several values, and a pipeline has one of it: {one}")


def write_targets(study: Study, home: Path) -> Path:
    """The targets file of a study's finished single-budget runs."""
    folders = [str(job.folder) for jobs in study.singles.values() for job in jobs]
    cells = table(read_runs(folders))
    numbers = {model: {f"{b:g}": round(mean_top1(runs), 3) for b, runs in row.items()} for model, row in cells.items()}
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:6]
    path = home / f"targets-{digest}.csv"
    if ranks.is_main():
        with contextlib.redirect_stdout(LastingOutput(sys.stdout)):
            print("\ntargets:")
            collect(folders, TargetsConfig(out=str(path)))
    return path


def as_words(settings: dict) -> list[str]:
    """A stage's own settings as words of a command line."""
    plain = OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings
    return [f"{'++' if name.startswith('model.args.') else ''}{setting(name, value)}"
            for name, value in flat_settings(plain).items()]


def _name(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _say(text: str) -> None:
    if ranks.is_main():
        print(text, file=LastingOutput(sys.stdout), flush=True)
