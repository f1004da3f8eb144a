"""The pipeline's table: top-1 of one network for all budgets beside that of a network for each budget."""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from bdsa.commands.sweep.plan import FINISHED, PlannedJob
from bdsa.report.terminal import print_whole
from bdsa.runs.contents import read_results, row_of
from bdsa.runs.files import write_json, write_text

if TYPE_CHECKING:
    from bdsa.commands.sweep.study import Study


def show_tables(studies: Sequence[Study], home: Path) -> None:
    """Print and write the tables of the studies that are complete: OUT/table.md and OUT/pipeline.json."""
    studies = [s for s in studies if s.multi and all(j.state in FINISHED for jobs in (
        *s.singles.values(), *s.multi.values()) for j in jobs)]
    if not studies:
        return
    texts, records = [], []
    for study in studies:
        header, rows = as_rows(study)
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, heading in enumerate(header):
            shown.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        title = " ".join(study.words)
        print(f"\n{title}\n")
        print_whole(shown)
        lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
        texts.append(f"`{title}`\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n")
        records.append({"settings": study.words, "targets": str(study.targets),
                        "singles": {f"{b:g}": [str(j.folder) for j in jobs] for b, jobs in study.singles.items()},
                        "multi": {metric: [str(j.folder) for j in jobs] for metric, jobs in study.multi.items()}})
    note = ("top-1 in percent on the reported split, and the conditional fraction that ran; means over seeds, with "
            "their deviation; single: a network for that budget alone; none, l1, l2: one network for all, by awareness")
    print(note)
    write_text(home / "table.md", "\n".join(texts) + f"\n{note}\n")
    write_json(home / "pipeline.json", records)
    for what, where in (("table", home / "table.md"), ("singles", home / "singles"), ("multi", home / "multi"),
                        ("targets", ", ".join(str(s.targets) for s in studies)), ("runs", home / "pipeline.json")):
        print(f"  {what:<11}{where}")


def as_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """The header and a row a budget: single, every metric, and the difference of each to single, in points."""
    metrics = list(study.multi)
    header = ["budget", "single", *(f"all budgets, {m}" for m in metrics), *(f"{m} - single" for m in metrics)]
    rows = []
    for budget, jobs in study.singles.items():
        single, *multi = ([_row(job, budget) for job in js] for js in (jobs, *study.multi.values()))
        differences = [f"{_mean(m, 'top1') - _mean(single, 'top1'):+.2f}" for m in multi]
        rows.append([f"{budget:g}", *(_cell(rows_of) for rows_of in (single, *multi)), *differences])
    return header, rows


def _row(job: PlannedJob, budget: float) -> dict[str, Any]:
    return row_of(read_results(job.folder), budget)


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.fmean(r[key] for r in rows)


def _cell(rows: list[dict[str, Any]]) -> str:
    spread = f" ± {statistics.stdev(r['top1'] for r in rows):.2f}" if len(rows) > 1 else ""
    return f"{_mean(rows, 'top1'):.2f}{spread} ({_mean(rows, 'conditional_fraction'):.3f})"
