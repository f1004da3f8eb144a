"""Tables, plots and a page from run folders: `bdsa-report`; see --help."""
from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from bdsa.commands.folder_arguments import launch_for_folders
from bdsa.config.commands import ReportConfig
from bdsa.errors import UserError
from bdsa.report.lines import table_lines
from bdsa.report.missing import Missing, missing_runs
from bdsa.report.networks import DataTable, data_tables
from bdsa.report.page import as_page
from bdsa.report.plots import write_plots
from bdsa.report.published import choose_published
from bdsa.report.tables import CSV_BEGIN, as_csv, as_latex, as_markdown, notes, wide_rows
from bdsa.report.terminal import print_whole
from bdsa.runs import failures
from bdsa.runs.files import write_text
from bdsa.runs.reading import Run, read_runs

HELP = """bdsa-report: tables, plots and a page from the folders of runs, finished or not.

  bdsa-report runs                                    every run in a folder, at any depth
  bdsa-report runs/NAME other/sweep out=paper
  bdsa-report sweep published=imagenet budgets=[0.3,0.5,0.7]

What it writes:
  report.html     one file to open or send: sortable tables, accuracy over cost, masks by budget, configs, commands
  report.md       the tables, what is missing and the command that makes it, what could not be read
  report.tex      the tables for LaTeX with booktabs
  report.csv      a line a network and budget, numbers unrounded
  plots/          accuracy_macs, accuracy_latency, training, density, as PNG and PDF

Runs that differ in trainer.seed alone become a mean; runs of one budget each that agree otherwise become a row.

Settings:

"""
ODD = "backslashreplace"  # what becomes of names of folders that are no UTF-8
_SHOWN = 10  # missing runs on the terminal, at most: the report has all


def main() -> None:
    """Entry point of bdsa-report."""
    launch_for_folders(report, ReportConfig, HELP, "out=report")


def report(folders: list[str], config: ReportConfig) -> None:
    """Write the report and say what is in it.

    Raises:
        UserError: if there is nothing to report, or a file of someone else's in the way.
    """
    if not folders:
        raise UserError("no folders: give those of runs, or one that holds them, such as runs")
    out = Path(config.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not _is_ours(out / "report.csv")):
        raise UserError(f"out={out} exists and was not made by bdsa-report: choose another name")
    problems: list[str] = []
    runs = read_runs(folders, problems)
    if not runs:
        raise UserError(f"nothing to report: {'; '.join(problems)}")
    budgets = config.budgets or []
    made = _made(runs, config, problems)
    tables, missing = made.tables, made.missing

    for old in (out / "plots").glob("*.p[nd][gf]"):  # of a report with more tables
        old.unlink()
    write_text(out / "report.csv", made.texts["csv"], ODD)
    plots = _plots(tables, out / "plots", problems)
    write_text(out / "report.tex", made.texts["tex"], ODD)
    write_text(out / "report.md", as_markdown(tables, missing, problems, budgets), ODD)
    write_text(out / "report.html", as_page(tables, made.runs, missing, problems, budgets, config.title), ODD)

    for table in tables:
        _print(table, budgets)
    for absent in missing[:_SHOWN]:
        print(f"missing: {absent.what}: {absent.why}\n  {absent.command}")
    if missing[_SHOWN:]:
        print(f"missing: {len(missing) - _SHOWN} more, see {out / 'report.md'}")
    for problem in problems:
        print(f"problem: {problem}")
    print(f"  {'page':<11}{out / 'report.html'}\n  {'tables':<11}{out / 'report.{md,tex,csv}'}")
    if plots:
        print(f"  {'plots':<11}{out / 'plots'}/{{{','.join(p.stem for p in plots)}}}.{{png,pdf}}")


@dataclass
class _Made:
    """What a report is made of, and the files of it that hold no problems."""
    runs: list[Run]
    tables: list[DataTable]
    missing: list[Missing]
    texts: dict[str, str]


def _made(runs: list[Run], config: ReportConfig, problems: list[str]) -> _Made:
    """Make all that can be made of the runs; one that cannot be shown is left out, and becomes a problem.

    Raises:
        UserError: for what the command line asked wrongly, or if nothing is left to show.
    """
    try:
        found: list[str] = []
        made = _make(runs, config, found)
        problems += found
        return made
    except UserError:
        raise
    except Exception as error:
        odd = {run.folder: why for run in runs if (why := _oddity(run, config)) is not None}
        left = [run for run in runs if run.folder not in odd]
        problems += [f"{folder} is left out, it cannot be shown: {why}" for folder, why in odd.items()]
        if not left:
            raise UserError(f"nothing to report: {'; '.join(problems)}") from error
        if not odd:  # no run's own fault
            raise
        return _made(left, config, problems)


def _make(runs: list[Run], config: ReportConfig, problems: list[str]) -> _Made:
    budgets = config.budgets or []
    tables, homeless = data_tables(runs, problems)
    for table in tables:
        choose_published(table, config.published)
    missing = missing_runs(tables, homeless, budgets)
    as_page(tables, runs, missing, problems, budgets, config.title)
    return _Made(runs, tables, missing, {"csv": as_csv(tables, budgets), "tex": as_latex(tables, budgets)})


def _oddity(run: Run, config: ReportConfig) -> str | None:
    """Why a run cannot be shown even alone; None if it can."""
    try:
        _make([run], config, [])
    except Exception as error:
        return failures.reason(error)
    return None


def _plots(tables: list[DataTable], folder: Path, problems: list[str]) -> list[Path]:
    """Draw the plots; where one cannot be drawn, the tables still say everything."""
    try:
        return write_plots(tables, folder)
    except OSError:
        raise
    except Exception as error:
        problems.append(f"the plots cannot all be drawn: {failures.reason(error)}")
        return []


def _print(table: DataTable, budgets: list[float]) -> None:
    """The table models x budgets on the terminal, and its notes."""
    lines = table_lines(table, budgets)
    head, rows = wide_rows(table, lines)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="", title=table.title)
    for name in head:
        shown.add_column(name, no_wrap=True)
    for row in rows:
        shown.add_row(*map(escape, row))
    print_whole(shown)
    for note in notes(table, lines):
        print(f"note: {note}")


def _is_ours(path: Path) -> bool:
    """Whether a file begins with the columns that `as_csv` writes."""
    if not path.is_file():
        return False
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return tuple(next(csv.reader(file), ()))[:len(CSV_BEGIN)] == CSV_BEGIN


if __name__ == "__main__":
    main()
