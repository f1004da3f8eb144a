"""What bdsa-benchmark says about a training's speed: the table and the verdict."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bdsa.config.image_size import in_words
from bdsa.machine import spare_cores
from bdsa.report.terminal import counted, print_whole, rate


def verdict(training: Mapping[str, Any], loader: Mapping[str, Any]) -> str:
    """A sentence: which of training and loader waits for the other, and what to do about it.

    Args:
        training: the row of the step that the config trains.
        loader: the loader's row.
    """
    takes, gives, workers = training["images_per_second"], loader["images_per_second"], loader["workers"]
    start = f"the loader gives {rate(gives)} images/s, training ({training['name']}) takes {rate(takes)}"
    if not workers:  # one process does both
        both = 1 / (1 / gives + 1 / takes)
        hint = "; data.workers=1 would read meanwhile" if spare_cores() and both < 0.9 * takes else ""
        return f"{start}: they take turns in one process, so {rate(both)} together{hint}"
    if gives >= takes:
        return f"{start}: the loader waits"
    if workers < spare_cores():
        return f"{start}: training waits; raise data.workers (now {workers})"
    return (f"{start}: training waits, and there are no cores for more than {counted(workers, 'worker')}; smaller "
            f"stored images or less augmentation would read faster")


def speed_table(result: Mapping[str, Any]) -> Table:
    """Build the table: a row a kind of step, then the loader.

    Args:
        result: the content of benchmark.json.
    """
    where, trainer = result["environment"], result["settings"]["trainer"]
    precision = "float32" if trainer["amp"] == "none" else trainer["amp"]
    title = (f"{result['model']}, batch {result['batch_size']}, {in_words(result['image_size'])} pixels, {precision}"
             f"{', compiled' if trainer['compile'] else ''}\n"
             f"{where['accelerator'] or where['processor']}, {counted(where['threads'], 'CPU thread')}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="", title=title)
    table.add_column("", no_wrap=True)
    table.add_column("budgets", no_wrap=True, vertical="bottom")
    for heading in ("images/s", "budget-\nimages/s", "ms a step", "times\ndense", "rounds'\nspread", "peak\nmemory"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in result["rows"]:
        budgets = " ".join(f"{b:g}" for b in row["budgets"]) if "budgets" in row else counted(row['workers'], 'worker')
        spread = (max(row["rounds_ms"]) - min(row["rounds_ms"])) / row["ms_per_step"]
        memory, ratio = row.get("peak_memory"), row.get("time_ratio")
        both = row.get("budget_images_per_second")  # of what every budget trained
        table.add_row(row["name"], budgets, rate(row["images_per_second"]), "-" if both is None else rate(both),
                      f"{row['ms_per_step']:.1f}",
                      "-" if ratio is None else f"{ratio:.2f}", f"{100 * spread:.0f} %",
                      "-" if memory is None else f"{memory / 2 ** 30:.2f} GiB")
    return table


def notes(result: Mapping[str, Any]) -> Sequence[str]:
    """What a reader of the figures should know."""
    found = [f"the median of {result['rounds']} rounds of {result['steps']} steps of each kind, in turns"]
    load, cores = result["load_before"], result["cores"]
    if load is not None and cores and load > 0.5 * cores:
        found.append(f"other programs were running (load {load:.1f} on {cores} cores): the figures are too low")
    return [*found, *result["slow_choices"]]


def report(result: Mapping[str, Any], path: Path) -> None:
    """Print the table, the verdict, notes and where it is kept."""
    print()
    print_whole(speed_table(result))
    print(result["verdict"])
    for note in notes(result):
        print(f"note: {note}")
    print(f"  results    {path}")
