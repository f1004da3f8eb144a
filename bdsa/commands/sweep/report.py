"""What a sweep says at its end: a line a job, what failed and why, and what to type next."""
from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from bdsa.commands.job import worth
from bdsa.commands.sweep.plan import FINISHED, PlannedJob, changing
from bdsa.report.terminal import print_whole
from bdsa.runs.contents import RESULTS


def report(jobs: Sequence[PlannedJob], best: bool = False) -> None:
    """Print the table of the jobs; `best`: and which has the largest worth."""
    results = [job.results() or {} for job in jobs]
    states = [job.state for job in jobs]
    budgets = sorted({(r["budget"], r["name"]) for made in results for r in made.get("rows", ())})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", justify="right")
    table.add_column("state", no_wrap=True)
    for budget, _ in budgets:
        table.add_column(f"top-1 %\nat {budget:g}", justify="right", no_wrap=True)
    table.add_column("settings", no_wrap=True)
    table.add_column("folder", no_wrap=True)
    for number, (job, state, made, settings) in enumerate(zip(jobs, states, results, changing(jobs)), 1):
        top1 = {r["name"]: f"{r['top1']:.2f}" for r in made.get("rows", ())}
        table.add_row(str(number), state, *(top1.get(name, "-") for _, name in budgets), settings, str(job.folder))
    print()
    print_whole(table)
    print(", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)))
    failed = [(n, job) for n, (job, state) in enumerate(zip(jobs, states), 1) if state == "failed"]
    if failed:
        print(f"\n{len(failed)} of {len(jobs)} jobs failed:")
        for number, job in failed:
            print(f"  job {number}  {job.folder}  {job.reason}")
    worths = [worth(job.maximize, job.folder) if made else None for job, made in zip(jobs, results)]
    if best and any(w is not None for w in worths):
        number = max((n for n, w in enumerate(worths) if w is not None), key=worths.__getitem__)
        name = jobs[number].maximize
        print(f"best: job {number + 1}, {name} top-1 {worths[number]:.2f} %, {changing(jobs)[number]}")
    if not all(s in FINISHED for s in states):
        again = ", without trainer.fresh=true," if any(job.fresh for job in jobs) else " again"
        print(f"the same command{again} skips the finished jobs and goes on with the others")
    if folders := [job.folder for job, state in zip(jobs, states) if state in FINISHED]:
        print(f"report: bdsa-report {_in_words(folders)}", flush=True)


def _in_words(folders: list[Path]) -> str:
    """Folders for a shell: PARENT/*/ where they are all the finished runs in there."""
    words = []
    for parent in dict.fromkeys(folder.parent for folder in folders):
        mine = list(dict.fromkeys(folder for folder in folders if folder.parent == parent))
        whole = len(mine) > 1 and {p.parent for p in parent.glob(f"*/{RESULTS}")} == {*mine}
        words += [f"{shlex.quote(str(parent))}/*/"] if whole else [shlex.quote(str(folder)) for folder in mine]
    return " ".join(words)
