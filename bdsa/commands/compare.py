"""Two runs or two sweeps side by side: `bdsa-compare`; see --help."""
from __future__ import annotations

from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from bdsa.budgets import Budget
from bdsa.commands.folder_arguments import launch_for_folders
from bdsa.config.commands import CompareConfig
from bdsa.errors import UserError
from bdsa.report.comparison import MEASURES, Comparison, Pair, compare
from bdsa.report.tables import markdown, markdown_text
from bdsa.report.terminal import human_count, print_whole
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
_SAME = "No setting changed."
_Rows = tuple[list[str], list[list[str]]]  # the heading and the rows of a table
_NAMES = {"top1": "top-1 %", "top5": "top-5 %", "conditional_fraction": "conditional fraction", "macs": "MACs",
          "latency_ms": "latency ms"}
_FORMS = {"top1": ".2f", "top5": ".2f", "conditional_fraction": ".3f", "latency_ms": ".2f"}


def main() -> None:
    """Entry point of bdsa-compare."""
    launch_for_folders(show, CompareConfig, HELP, "out=comparison.md")


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
    remarks = [*found.remarks, *problems]
    _print(folders, found, remarks)
    if config.out:
        write_text(out, as_markdown(folders, found, remarks))
        print(f"  {'comparison':<11}{out}")


def as_markdown(folders: list[str], found: Comparison, remarks: list[str]) -> str:
    """The comparison as text."""
    one, other = map(markdown_text, folders)
    parts = [_TITLE, f"A: {one}\n\nB: {other}", "## Settings that changed",
             markdown(*_changed(found), 3) if found.changed else _SAME, "## What it did", markdown(*_summary(found), 2)]
    if _several(found):
        parts += ["## Run by run", markdown(*_pairs(found.pairs), 3)]
    if remarks:
        parts += ["## Remarks", "\n".join(f"- {markdown_text(remark)}" for remark in remarks)]
    return "\n\n".join(parts) + "\n"


def _print(folders: list[str], found: Comparison, remarks: list[str]) -> None:
    """The same on the terminal."""
    print(f"A: {folders[0]}\nB: {folders[1]}\n")
    if found.changed:
        _print_table("settings that changed", *_changed(found), 3)
    else:
        print(f"{_SAME}\n")
    _print_table("what it did", *_summary(found), 2)
    if _several(found):
        _print_table("run by run", *_pairs(found.pairs), 3)
    for remark in remarks:
        print(f"note: {remark}")


def _print_table(title: str, head: list[str], rows: list[list[str]], texts: int) -> None:
    """A table, its first `texts` columns to the left and those of numbers to the right."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="", title=title)
    for index, name in enumerate(head):
        shown.add_column(name, no_wrap=True, justify="left" if index < texts else "right")
    for before, row in zip([None, *rows], rows):
        if before is not None and "budget" in head and before[0] != row[0]:
            shown.add_section()
        shown.add_row(*map(escape, row))
    print_whole(shown)


def _several(found: Comparison) -> bool:
    """Whether more than one run stands on a side."""
    return len({(p.one.name, p.other.name) for p in found.pairs}) > 1


def _changed(found: Comparison) -> _Rows:
    return ["setting", "A", "B"], [[name, ", ".join(left), ", ".join(right)]
                                   for name, (left, right) in found.changed.items()]


def _summary(found: Comparison) -> _Rows:
    """A row a budget and measure: means of both sides, and of the differences."""
    rows = []
    for budget in found.budgets:
        count = sum(p.budget == budget for p in found.pairs)
        for measure in MEASURES:
            values = found.summary(budget, measure)
            if values is None:
                continue
            one, other, difference, deviation = values
            spread = "" if deviation is None else f" ± {_text(measure, deviation)}"
            marks = [_untrained(n, count) if measure in ("top1", "top5") else "" for n in found.untrained(budget)]
            rows.append([f"{budget:g}{' (dense)' if Budget(budget).is_dense else ''}", _NAMES[measure],
                         _text(measure, one) + marks[0], _text(measure, other) + marks[1],
                         f"{_signed(measure, difference)}{spread}", f"{100 * difference / one:+.1f} %" if one else "-",
                         str(count)])
    return ["budget", "", "A", "B", "B - A", "relative", "pairs"], rows


def _untrained(runs: int, count: int) -> str:
    """What stands behind the top-1 of a side of `count` runs, so many of which were not trained for the budget."""
    return "" if not runs else " (not trained)" if runs == count else f" ({runs} of {count} not trained)"


def _pairs(pairs: list[Pair]) -> _Rows:
    rows = []
    for pair in pairs:
        one, other = pair.values("top1")
        marks = [_untrained(int(pair.budget not in run.trained), 1) for run in (pair.one, pair.other)]
        rows.append([f"{pair.budget:g}", pair.one.name, pair.other.name, f"{one:.2f}{marks[0]}",
                     f"{other:.2f}{marks[1]}", f"{other - one:+.2f}", *map(human_count, pair.values("macs"))])
    return ["budget", "A", "B", "top-1 % A", "top-1 % B", "B - A", "MACs A", "MACs B"], rows


def _text(measure: str, value: float) -> str:
    return human_count(value) if measure == "macs" else f"{value:{_FORMS[measure]}}"


def _signed(measure: str, value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_text(measure, abs(value))}"


if __name__ == "__main__":
    main()
