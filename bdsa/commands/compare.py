"""Two runs or two sweeps side by side: `bdsa-compare`; see --help."""
from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from bdsa.commands.folder_arguments import folders_and_settings
from bdsa.config.commands import CompareConfig
from bdsa.config.schema import described_settings
from bdsa.errors import UserError
from bdsa.report.comparison import MEASURES, Comparison, Pair, compare
from bdsa.report.tables import markdown
from bdsa.report.terminal import human_count
from bdsa.runs.files import write_text
from bdsa.runs.reading import read_runs

HELP = """bdsa-compare: two runs, or two sweeps, side by side: which settings changed, and what it did at each budget.

  bdsa-compare runs/A runs/B
  bdsa-compare sweep-without-teacher sweep-with-teacher out=comparison.md

Changed are the settings whose values on one side never occur on the other. Runs of two sweeps are matched by
their remaining settings; single-budget runs stand beside the same budget of a run of several.

Settings:

"""
_TITLE = "# Comparison of runs"
_NAMES = {"top1": "top-1 %", "conditional_fraction": "conditional fraction", "macs": "MACs", "latency_ms": "latency ms"}
_FORMS = {"top1": ".2f", "conditional_fraction": ".3f", "latency_ms": ".2f"}


def main() -> None:
    """Entry point of bdsa-compare."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(HELP + "\n".join(described_settings(CompareConfig, asdict(CompareConfig()))))
        return
    try:
        folders, config = folders_and_settings(arguments, CompareConfig, "out=comparison.md")
        show(folders, config)
    except UserError as error:
        sys.exit(f"error: {error}")


def show(folders: list[str], config: CompareConfig) -> None:
    """Print the comparison, and write it where that was asked for.

    Raises:
        UserError: unless there are two folders, each with a finished run, and a budget of both.
    """
    if len(folders) != 2:
        raise UserError(f"{len(folders)} folders are given: bdsa-compare takes two, of a run or of a sweep each")
    if config.out and (out := Path(config.out)).exists() and not (
            out.is_file() and out.read_text(errors="replace").startswith(_TITLE)):
        raise UserError(f"out={out} exists and was not made by bdsa-compare: choose another name")
    problems: list[str] = []
    sides = [read_runs([folder], problems) for folder in folders]
    for folder, side in zip(folders, sides):
        if not any(run.results is not None for run in side):
            raise UserError(f"{folder} has no finished run to compare{': ' if problems else ''}{'; '.join(problems)}")
    found = compare(*sides)
    if not found.pairs:
        raise UserError(f"{folders[0]} and {folders[1]} have no budget of a run in common: {'; '.join(found.remarks)}")
    text = as_markdown(folders, found, problems)
    print(text)
    if config.out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
        print(f"  {'comparison':<11}{out}")


def as_markdown(folders: list[str], found: Comparison, problems: list[str]) -> str:
    """The comparison as text."""
    rows = [[name, ", ".join(left), ", ".join(right)] for name, (left, right) in found.changed.items()]
    parts = [_TITLE, f"A: {folders[0]}\n\nB: {folders[1]}", "## Settings that changed",
             markdown(["setting", "A", "B"], rows, 3) if rows else "None: the runs have the same settings.",
             "## What it did", _summary(found)]
    if len({(p.one.name, p.other.name) for p in found.pairs}) > 1:
        parts += ["## Run by run", _pairs(found.pairs)]
    remarks = [*found.remarks, *problems]
    if remarks:
        parts += ["## Remarks", "\n".join(f"- {remark}" for remark in remarks)]
    return "\n\n".join(parts) + "\n"


def _summary(found: Comparison) -> str:
    """A row a budget and measure: means of both sides, and of the differences."""
    rows = []
    for budget in found.budgets:
        pairs = [p for p in found.pairs if p.budget == budget]
        untrained = any(budget not in run.trained for p in pairs for run in (p.one, p.other))
        for measure in MEASURES:
            values = found.summary(budget, measure)
            if values is None:
                continue
            one, other, difference, deviation = values
            spread = "" if deviation is None else f" ± {_text(measure, deviation)}"
            rows.append([f"{budget:g}{' (dense, not trained)' if untrained else ''}", _NAMES[measure],
                         _text(measure, one), _text(measure, other), f"{_signed(measure, difference)}{spread}",
                         f"{100 * difference / one:+.1f} %" if one else "-", str(len(pairs))])
    return markdown(["budget", "", "A", "B", "B - A", "relative", "pairs"], rows, 2)


def _pairs(pairs: list[Pair]) -> str:
    rows = []
    for pair in pairs:
        one, other = pair.values("top1")
        costs = pair.values("macs")
        rows.append([f"{pair.budget:g}", pair.one.name, pair.other.name, f"{one:.2f}", f"{other:.2f}",
                     f"{other - one:+.2f}", human_count(costs[0]), human_count(costs[1])])
    return markdown(["budget", "A", "B", "top-1 % A", "top-1 % B", "B - A", "MACs A", "MACs B"], rows, 3)


def _text(measure: str, value: float) -> str:
    return human_count(value) if measure == "macs" else f"{value:{_FORMS[measure]}}"


def _signed(measure: str, value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_text(measure, abs(value))}"


if __name__ == "__main__":
    main()
