"""One HTML file with everything in it: tables, plots, masks and runs. It asks no other host for anything.

Tables stand in the file as HTML; plots, masks and the details of runs are drawn by the scripts of assets/ from
the data of `bdsa.report.page_data`, the details when they are opened.
"""
from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from bdsa.report.lines import Line, columns, table_lines
from bdsa.report.missing import Missing
from bdsa.report.networks import DataTable
from bdsa.report.page_data import page_data, viewers_left_out
from bdsa.report.pictures.line_styles import HEAT
from bdsa.report.series import bar_words
from bdsa.report.tables import notes, wide_rows
from bdsa.runs.reading import Run

_ASSETS = Path(__file__).parent / "assets"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def as_page(tables: list[DataTable], runs: list[Run], missing: list[Missing], problems: list[str],
            budgets: list[float], title: str) -> str:
    """The file's text."""
    data = page_data(tables, runs, missing, budgets)
    finished = sum(run.results is not None for run in runs)
    parts = [f"<header><h1>{escape(title)}</h1><p class='soft'>{_counted(finished, 'finished run')} of {len(runs)}, "
             f"{_counted(len(missing), 'run')} missing</p></header>", "<main id='main'>"]
    parts += [_table_section(table, number, budgets) for number, table in enumerate(tables)]
    parts += [_masks_section(data, viewers_left_out(tables, data)), _missing_section(missing),
              _problems_section(problems), _runs_section(runs), "</main>"]
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    scripts = "".join(f"<script>{_asset(name)}</script>" for name in ("chart.js", "page.js"))
    return (f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
            f"<meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">"
            f"<style>{_asset('page.css')}{_budget_colours(len(data['budgets']))}</style></head>\n<body>"
            f"<a class='skip' href='#main'>Skip to the tables</a>{''.join(parts)}"
            f"<script type='application/json' id='data'>{text}</script>{scripts}</body></html>\n")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _table_section(table: DataTable, number: int, budgets: list[float]) -> str:
    lines = table_lines(table, budgets)
    head, rows = wide_rows(table, lines)
    texts = len(head) - len({line.budget for line in lines})
    wide = _table(head, [[_cell(c, wide=i == 2) if i < texts else _cell(c, _leading_number(c), number=True)
                          for i, c in enumerate(row)] for row in rows], texts,
                  "Top-1 in percent, models x budgets. The heads of the columns sort.")
    costs = [("macs", "MACs", True)]
    if any(line.latency_ms is not None for line in lines):
        costs.append(("latency", "latency", False))
    if any(n.between or n.cascade for n in table.networks):
        costs.append(("budget", "budget", False))
    radios = "".join(f"<label><input type='radio' name='cost{number}' value='{v}'{' checked' * on}> {name}</label>"
                     for v, name, on in costs)
    remarks = "".join(f"<li>{escape(n)}</li>" for n in notes(table, lines))
    return (f"<section data-table='{number}'><h2>{escape(table.title)}</h2>{wide}<ul class='notes'>{remarks}</ul>"
            f"<h3>Accuracy over cost</h3><div class='controls' role='radiogroup' aria-label='cost'>"
            f"{radios if len(costs) > 1 else ''}</div><div class='chart'></div><ul class='legend'></ul>"
            f"<p class='soft'>Bars: {bar_words(table)}.</p>"
            f"<noscript><p>The plots need JavaScript; the same ones are in plots/.</p></noscript>"
            f"<h3>Everything that was measured</h3>{_long_table(table, lines)}</section>")


def _long_table(table: DataTable, lines: list[Line]) -> str:
    labelled = any(n.label for n in table.networks)
    shown = columns(lines)
    head = ["model", "networks", *["settings"] * labelled, *(c.heading for c in shown)]
    rows = [[_cell(line.network.model), _cell(line.network.kind), *[_cell(line.network.label, wide=True)] * labelled,
             *(_cell(c.text(line), getattr(line, c.key), number=True) for c in shown)] for line in lines]
    return _table(head, rows, len(head) - len(shown), "A row a network and budget.")


def _table(head: list[str], rows: list[list[str]], texts: int, caption: str) -> str:
    heads = "".join(f"<th scope='col'{' class=number' * (i >= texts)}>{escape(h)}</th>" for i, h in enumerate(head))
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(caption)}'><table class='sortable'>"
            f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>")


def _cell(text: str, value: float | None = None, number: bool = False, wide: bool = False) -> str:
    """A cell; one of numbers sorts by its value, and one without a value stands last."""
    classes = " ".join(name for name, on in (("number", number), ("wide", wide), (
        "absent", number and text in ("missing", "not finished", "failed"))) if on)
    sort = "" if not number else " data-value=''" if value is None else f" data-value='{value:.6g}'"
    return f"<td{f' class={chr(39)}{classes}{chr(39)}' if classes else ''}{sort}>{escape(text)}</td>"


def _leading_number(text: str) -> float | None:
    try:
        return float(text.split()[0].rstrip("*"))
    except (ValueError, IndexError):
        return None


def _masks_section(data: dict[str, Any], left_out: int) -> str:
    if not data["viewers"]:
        return ("<section><h2>Where it computes</h2><p>No run here kept its masks. <code>bdsa-visualize "
                "checkpoint=RUN/checkpoints/best.pt</code> makes them; then make this report again.</p></section>")
    options = "".join(f"<option value='{i}'>{escape(v['title'])}</option>" for i, v in enumerate(data["viewers"]))
    more = (f"<p class='soft'>Left out, to keep this page small: {_counted(left_out, 'more network')} with masks; a "
            f"report of fewer folders shows them.</p>" if left_out else "")
    return (f"<section id='masks'><h2>Where it computes</h2><div class='controls'>"
            f"<span><label for='network'>Network</label> <select id='network'>{options}</select></span>"
            f"<span><label for='budget'>Budget</label> <input type='range' id='budget' min='0' max='0' step='1' "
            f"value='0'> <output id='budget-said' for='budget'></output></span></div>"
            f"<p class='soft'>Right of each image, where blocks ran on it: <span class='ramp' role='img' aria-label="
            f"'from dark to bright'></span> 1 to <span id='blocks'></span> blocks; grey: none. Below it the true class "
            f"and the prediction.</p><div class='tiles' id='tiles'></div>{more}</section>")


def _missing_section(missing: list[Missing]) -> str:
    if not missing:
        return ""
    rows = [[_cell(m.what, wide=True), _cell(m.why, wide=True),
             f"<td class='wide'><code>{escape(m.command)}</code></td>"] for m in missing]
    return ("<section id='missing'><h2>Missing runs</h2>"
            + _table(["run", "what is known", "the command that makes it"], rows, 3, "Runs that are not there.")
            + "</section>")


def _problems_section(problems: list[str]) -> str:
    items = "".join(f"<li>{escape(p)}</li>" for p in problems)
    return f"<section><h2>Problems</h2><ul class='problems'>{items}</ul></section>" if problems else ""


def _runs_section(runs: list[Run]) -> str:
    search = ("<div class='controls'><label for='filter'>Show runs with</label><input type='search' id='filter'>"
              f"<span id='shown' role='status'>{len(runs)} runs</span></div>") if len(runs) > 5 else ""
    items = "".join(f"<details data-run='{i}'><summary>{escape(run.name)}: {escape(_summary(run))}</summary>"
                    f"<div class='run'></div></details>" for i, run in enumerate(runs))
    return f"<section id='runs'><h2>Runs: config and command</h2>{search}{items}</section>"


def _summary(run: Run) -> str:
    if run.results is None:
        return "failed" if run.failure else f"not finished, {run.epochs_done} epochs"
    return ", ".join(f"{row['top1']:.2f} % at {row['budget']:g}" for row in run.results["rows"]
                     if row["budget"] in run.trained)


def _budget_colours(count: int) -> str:
    """Colours of budgets as CSS: the scale's dark end on white, its bright end on black."""
    def scale(low: float, high: float) -> str:
        return "".join(f"--b{i}:{to_hex(colormaps[HEAT](low + (high - low) * i / max(1, count - 1)))};"
                       for i in range(count))
    return f":root{{{scale(0, .8)}}}@media (prefers-color-scheme:dark){{:root{{{scale(.35, 1)}}}}}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
