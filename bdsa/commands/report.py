"""Tables, plots and a page from run folders: `bdsa-report`; see --help."""
from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from bdsa.commands.folder_arguments import folders_and_settings
from bdsa.commands.one_line import one_line
from bdsa.config.commands import ReportConfig
from bdsa.config.schema import described_settings
from bdsa.errors import UserError
from bdsa.report.lines import table_lines
from bdsa.report.missing import missing_runs
from bdsa.report.networks import DataTable, data_tables
from bdsa.report.page import as_page
from bdsa.report.plots import write_plots
from bdsa.report.published import choose_published
from bdsa.report.tables import CSV_BEGIN, as_csv, as_latex, as_markdown, notes, wide_rows
from bdsa.report.terminal import print_whole
from bdsa.runs.files import write_text
from bdsa.runs.reading import read_runs

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
_SHOWN = 10  # missing runs on the terminal, at most: the report has all


def main() -> None:
    """Entry point of bdsa-report."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(HELP + "\n".join(described_settings(ReportConfig, asdict(ReportConfig()))))
        return
    with one_line():
        report(*folders_and_settings(arguments, ReportConfig, "out=report"))


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
    tables, homeless = data_tables(runs, problems)
    for table in tables:
        choose_published(table, config.published)
    missing = missing_runs(tables, homeless, budgets)

    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "plots").glob("*.p[nd][gf]"):  # of a report with more tables
        old.unlink()
    plots = write_plots(tables, out / "plots")
    write_text(out / "report.csv", as_csv(tables, budgets))
    write_text(out / "report.tex", as_latex(tables, budgets))
    write_text(out / "report.md", as_markdown(tables, missing, problems, budgets))
    write_text(out / "report.html", as_page(tables, runs, missing, problems, budgets, config.title))

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
    with path.open(newline="", errors="replace") as file:
        return tuple(next(csv.reader(file), ()))[:len(CSV_BEGIN)] == CSV_BEGIN


if __name__ == "__main__":
    main()
