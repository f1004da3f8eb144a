"""The tables as files: Markdown and LaTeX (booktabs) for reading, CSV for further work."""
from __future__ import annotations

import csv
import io

from bdsa.report.lines import Line, columns, latency_conditions, table_lines, wide_cell
from bdsa.report.missing import Missing
from bdsa.report.networks import DataTable
from bdsa.report.published import describe_source
from bdsa.runs.files import spreadsheet_text

CSV_BEGIN = ("data", "split", "model", "networks", "settings", "budget", "top1", "top1_deviation")  # of every report
_CSV_END = ("conditional_fraction", "macs", "share_of_dense_macs", "latency_ms", "speedup", "published_top1",
            "difference", "top1_low", "top1_high", "published_source", "runs", "unfinished", "trained", "folders")
_ESCAPES = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{",
            "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$"}


def notes(table: DataTable, lines: list[Line], why: bool = True) -> list[str]:
    """What a reader of a table must know, a sentence each; `why` as in `describe_source`."""
    found = []
    if any(line.deviation is not None for line in lines):
        found.append("± is the sample standard deviation over seeds.")
    if any(line.interval is not None for line in lines):
        found.append("Interval: of one run, 95 % by the number of its images; of several, mean and deviation.")
    if any(line.difference is not None for line in lines):
        found.append("In brackets, and under difference: measured minus published top-1.")
    if table.published is not None:
        found.append(describe_source(table, why))
    if any(line.untrained for line in lines):
        found.append("A star: the dense budget was not trained; these are the shared weights with all masks one.")
    return found + latency_conditions(table)


def wide_rows(table: DataTable, lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """The table models x budgets: its heading and its rows; every row's first cells are model and networks."""
    budgets = sorted({line.budget for line in lines})
    by_place = {(id(line.network), line.budget): line for line in lines}
    labelled = any(n.label for n in table.networks)
    head = ["model", "networks", *["settings"] * labelled, *(f"{b:g}" for b in budgets)]
    return head, [[n.model, n.kind, *[n.label] * labelled, *(wide_cell(by_place.get((id(n), b))) for b in budgets)]
                  for n in table.networks]


def long_rows(table: DataTable, lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """A row a network and budget, with everything that was measured: its heading and its rows."""
    shown = columns(lines)
    labelled = any(n.label for n in table.networks)
    head = ["model", "networks", *["settings"] * labelled, *(c.heading for c in shown)]
    return head, [[line.network.model, line.network.kind, *[line.network.label] * labelled,
                   *(c.text(line) for c in shown)] for line in lines]


def as_markdown(tables: list[DataTable], missing: list[Missing], problems: list[str], budgets: list[float]) -> str:
    """The whole report as text."""
    parts = ["# Report"]
    for table in tables:
        lines = table_lines(table, budgets)
        wide, long = wide_rows(table, lines), long_rows(table, lines)
        parts += [f"## {markdown_text(table.title)}",
                  "Top-1 in percent, models x budgets:", markdown(*wide, _texts(wide[0])),
                  "Everything that was measured:", markdown(*long, _texts(long[0])),
                  "\n".join(f"- {markdown_text(note)}" for note in notes(table, lines))]
    if missing:
        parts += ["## Missing runs", "\n".join(map(_missing, missing))]
    if problems:
        parts += ["## Problems", "\n".join(f"- {markdown_text(p)}" for p in problems)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _missing(run: Missing) -> str:
    return f"- {markdown_text(f'{run.what}: {run.why}')}\n\n      {' '.join(run.command.splitlines())}\n"


def markdown(head: list[str], rows: list[list[str]], texts: int) -> str:
    """A table, its first `texts` columns to the left and those of numbers to the right."""
    rule = ["---" if i < texts else "---:" for i in range(len(head))]
    cells = [[markdown_text(c) for c in row] for row in (head, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def markdown_text(text: str) -> str:
    """Any text on one line of Markdown, as itself: no cell's end, and no HTML."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", r"\|")


def _texts(head: list[str]) -> int:
    """How many columns stand before the numbers."""
    return sum(h in ("model", "networks", "settings") for h in head)


def as_latex(tables: list[DataTable], budgets: list[float]) -> str:
    """Two floats a data table, models x budgets and everything; needs \\usepackage{booktabs}."""
    parts = ["% Needs \\usepackage{booktabs}; wide ones may need \\usepackage{graphicx} and \\resizebox."]
    for number, table in enumerate(tables, 1):
        lines = table_lines(table, budgets)
        words = " ".join(notes(table, lines, why=False))
        parts += [_latex(*wide_rows(table, lines), f"Top-1 in percent by budget, on {table.title}. {words}",
                         f"tab:bdsa-top1-{number}"),
                  _latex(*long_rows(table, lines), f"Accuracy and cost by budget, on {table.title}. {words}",
                         f"tab:bdsa-cost-{number}")]
    return "\n\n".join(parts) + "\n"


def _latex(head: list[str], rows: list[list[str]], caption: str, label: str) -> str:
    texts = _texts(head)
    body: list[str] = []
    for before, row in zip([None, *rows], rows):
        if before is not None and "budget" in head and before[:texts] != row[:texts]:
            body.append(r"\addlinespace")
        body.append(" & ".join(map(latex_text, row)) + r" \\")
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{latex_text(caption)}}}", rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}", r"\toprule",
        " & ".join(map(latex_text, head)) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
        r"\end{table}"])


def latex_text(text: str) -> str:
    """Any text as LaTeX shows it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def as_csv(tables: list[DataTable], budgets: list[float]) -> str:
    """A line a network and budget, numbers unrounded, empty where there is none; top5 where a run has it."""
    lines = [(table, line) for table in tables for line in table_lines(table, budgets)]
    ranked = any(line.top5 is not None for _, line in lines)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_BEGIN, *["top5"] * ranked, *_CSV_END])
    for table, line in lines:
        network, cell = line.network, line.network.cells.get(line.budget)
        writer.writerow(["" if value is None else spreadsheet_text(value) for value in (
            table.data, table.split, network.model, network.kind, network.label, line.budget, line.top1,
            line.deviation, *[line.top5] * ranked, line.fraction, line.macs, line.share, line.latency_ms, line.speedup,
            line.published, line.difference, *(line.interval or (None, None)),
            table.published if line.published is not None else None, line.runs, line.unfinished,
            str(not line.untrained).lower(), " ".join(str(r.folder) for r in cell.runs) if cell else None)])
    return text.getvalue()
