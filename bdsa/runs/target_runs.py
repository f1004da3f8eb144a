"""Targets for awareness from finished single-budget runs: a row a model, a column a budget, and where they are from.

A target is the top-1 that a network trained for that budget alone reaches (docs/method.md, section 7). Runs
that differ in their seed alone are averaged; runs of other data or another split do not mix.
"""
from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdsa.budgets import DENSE
from bdsa.config.image_size import in_words
from bdsa.errors import UserError, nearest
from bdsa.runs import contents
from bdsa.runs.files import spreadsheet_text
from bdsa.runs.name import decisive_settings, default_settings
from bdsa.runs.places import PLACES, place_names

PROVENANCE = ("data", "split", "runs")  # columns behind the budgets; the reader takes only numbers as budgets


@dataclass
class TargetRun:
    """What a finished run says about one budget.

    Attributes:
        folder: where it is, as it was given.
        model: name of its row.
        budget, top1: top-1 in percent at that budget, on `split`.
        fraction: the conditional fraction that really ran.
        split: the split that was measured.
        data: what was measured; equal for runs that can be compared.
        settings: everything that decides the run's result, as flat dotted names; defaults stand in for settings newer
            than the run.
    """
    folder: str
    model: str
    budget: float
    top1: float
    fraction: float
    split: str
    data: str
    settings: dict[str, Any]


def read_run(folder: str, dense: bool = False) -> TargetRun:
    """Read a run's folder.

    Args:
        folder: of a bdsa-train that is finished.
        dense: take the dense row of a run of several budgets that trained 1.0.

    Raises:
        UserError: if it trained several budgets.
    """
    path = Path(folder)
    config, results = contents.read_config(path), contents.read_results(path)
    trained = results["trained_budgets"]
    if len(trained) > 1 and not dense:
        hint = "; dense=true takes its row of budget 1" if DENSE in trained else ""
        raise UserError(f"{folder} trained {len(trained)} budgets at once ({', '.join(f'{b:g}' for b in trained)}): a "
                        f"target is what a network of one budget reaches{hint}")
    if len(trained) > 1 and DENSE not in trained:
        raise UserError(f"{folder} trained the budgets {', '.join(f'{b:g}' for b in trained)} and not 1: its dense row "
                        f"is no target")
    budget = DENSE if len(trained) > 1 else trained[0]
    row = contents.row_of(results, budget)
    settings = {**default_settings(), **decisive_settings(config)}
    return TargetRun(str(path), results["model"], budget, row["top1"], row["conditional_fraction"], results["split"],
                     measured_data(settings, results), settings)


def measured_data(settings: dict[str, Any], results: dict[str, Any]) -> str:
    """What a run was measured on, in words that are equal for runs that can be compared."""
    root = settings["data.root"]  # its last part: the same data may lie elsewhere on another machine
    size = in_words(results["image_size"])
    data = " ".join([results["data"], *([Path(root).name] if root else []), f"at {size} pixels,",
                     f"{results['classes']} classes,", f"{results['rows'][0]['images']} images"])
    return data if root else f"{data}, seed {settings['data.seed']}"  # without a root it was generated


def check_finished(folders: list[str]) -> None:
    """Raise UserError unless every folder holds a finished run; all that do not are named."""
    stopped = []
    for folder in folders:
        path = Path(folder)
        if not path.is_dir():
            siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
            raise UserError(f"{folder} is no folder{nearest(path.name, siblings)}: give folders of finished runs")
        if contents.read_config(path) is None:
            raise UserError(f"{folder} holds no run of bdsa-train: it has no {contents.CONFIG}")
        if contents.read_results(path) is None:
            stopped.append(f"{folder} is not finished, `{contents.command_of(path)}` goes on with it")
    if stopped:
        raise UserError("; ".join(stopped))


def read_runs(folders: list[str], dense: bool = False) -> list[TargetRun]:
    """Read all folders and check that they belong in one file.

    Raises:
        UserError: if there are none, one is given twice or not finished, or they differ in data, split,
            a model's arguments or, for one model and budget, in more than the seed.
    """
    if not folders:
        raise UserError("no runs: give the folders of finished single-budget runs, such as runs/*/")
    given: dict[Path, str] = {}
    for folder in folders:
        if (path := Path(folder).resolve()) in given:
            raise UserError(f"{folder} is given twice (as {given[path]}): a run counts once")
        given[path] = folder
    check_finished(folders)
    runs = [read_run(f, dense) for f in folders]
    first = runs[0]
    for run in runs[1:]:
        for what, one, other in (("data", first.data, run.data), ("split", first.split, run.split)):
            if one != other:
                raise UserError(f"{first.folder} and {run.folder} differ in their {what} ({one}; {other}): targets of "
                                f"one file must be comparable, make a file of each")
        row = next(r for r in runs if r.model == run.model)
        if changed := _changes(row, run, {"model.args"}):
            raise UserError(f"{row.folder} and {run.folder} are both {run.model} and differ in its arguments "
                            f"({changed[0]}): one row is one network")
        same = next(r for r in runs if (r.model, r.budget) == (run.model, run.budget))
        if changed := _changes(same, run, {*same.settings, *run.settings} - {"trainer.seed"}):
            raise UserError(f"{same.folder} and {run.folder} are both {run.model} at {run.budget:g} and differ in more "
                            f"than the seed ({'; '.join(changed[:3])}{'; ...' if len(changed) > 3 else ''}): a mean "
                            f"is taken over seeds only")
    return runs


def _changes(one: TargetRun, other: TargetRun, names: set[str]) -> list[str]:
    """The named settings in which two runs differ, each as "name: value -> value"."""
    def told(run: TargetRun, name: str) -> Any:
        value = run.settings.get(name)
        return place_names(value) if name in PLACES else value  # which may start from a run of their own seed each

    return [f"{n}: {one.settings.get(n)} -> {other.settings.get(n)}" for n in sorted(names)
            if told(one, n) != told(other, n)]


def table(runs: list[TargetRun]) -> dict[str, dict[float, list[TargetRun]]]:
    """Model -> budget -> its runs, models and budgets sorted."""
    cells: dict[str, dict[float, list[TargetRun]]] = {}
    for run in sorted(runs, key=lambda r: (r.model, r.budget)):
        cells.setdefault(run.model, {}).setdefault(run.budget, []).append(run)
    return cells


def mean_top1(runs: list[TargetRun]) -> float:
    """Mean top-1 of a cell's runs, percent."""
    return sum(r.top1 for r in runs) / len(runs)


def absent_budgets(cells: dict[str, dict[float, list[TargetRun]]], budgets: list[float]) -> dict[str, list[float]]:
    """Model -> the budgets that no run of it trained; models that have all are left out."""
    lacking = {model: [b for b in budgets if b not in row] for model, row in cells.items()}
    return {model: absent for model, absent in lacking.items() if absent}


def as_csv(cells: dict[str, dict[float, list[TargetRun]]], budgets: list[float]) -> str:
    """The file's text; an empty entry where a budget is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", *(f"{b:g}" for b in budgets), *PROVENANCE])
    for model, row in cells.items():
        runs = [r for cell in row.values() for r in cell]
        places = "; ".join(f"{b:g}: {' '.join(r.folder for r in cell)}" for b, cell in row.items())
        values = [f"{mean_top1(row[b]):.3f}" if b in row else "" for b in budgets]
        writer.writerow([model, *values, *map(spreadsheet_text, (runs[0].data, runs[0].split, places))])
    return text.getvalue()
