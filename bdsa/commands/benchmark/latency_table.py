"""bdsa-benchmark what=table: finished latency benchmarks as Markdown, for a README.

Speedups are over the fastest dense engine at any float precision. Of a budget that was measured at several precisions
the short table takes the fastest.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdsa.commands.benchmark.break_even import in_words as break_even_in_words
from bdsa.commands.benchmark.latency_report import percent, ratio
from bdsa.commands.benchmark.ways import as_markdown as ways_as_markdown
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.image_size import in_words
from bdsa.errors import UserError
from bdsa.report.tables import markdown
from bdsa.report.terminal import counted

Result = Mapping[str, Any]  # the content of a benchmark.json
Table = tuple[list[str], list[list[str]]]  # heading and rows


def benchmark(config: BenchmarkConfig, named: frozenset[str] = frozenset()) -> str:
    """Print what the benchmark.json files below `out` (runs/benchmarks) say, as Markdown; return it.

    Args:
        config: all settings, of which only `out` counts.
        named: the settings that the command line names.

    Raises:
        UserError: where there is no benchmark of a latency.
    """
    folder = Path(config.out or "runs/benchmarks")
    results, problems = found_results(folder)
    if not results:
        raise UserError(f"{folder} holds no benchmark.json of what=latency{': ' if problems else ''}"
                        f"{'; '.join(problems)}")
    text = as_markdown(results)
    print(text)
    for problem in problems:
        print(f"note: {problem}")
    return text


def found_results(folder: Path) -> tuple[list[Result], list[str]]:
    """The results of what=latency in a folder and those in it, by network and batch, and what was passed over."""
    results, problems = [], []
    for path in sorted(folder.rglob("benchmark.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["what"] != "latency":
                continue
            if result["environment"]["device"] != "cpu":
                problems.append(f"{path} is of a GPU, whose engines are others: it has a table of its own")
                continue
            as_markdown([result])  # all that is shown is there
            results.append(result)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            problems.append(f"{path} is damaged or of an older version: measure it again")
    # In the order in which they were made: of networks by their first one, of these by batch.
    first = {result["model"]: number for number, result in reversed(list(enumerate(results)))}
    return sorted(results, key=lambda result: (first[result["model"]], result["batch_size"])), problems


def as_markdown(results: Sequence[Result]) -> str:
    """The short table, everything about the budgets, the dense engines, automatic execution and the break-even."""
    results = told_apart(results)
    parts = [f"{words}:" if len(about(results)) == 1 else f"- {words}" for words in about(results)]
    crossings = [f"- {result['model']}, batch {result['batch_size']}: {break_even_in_words(c, result['execution'])}"
                 for result in results for c in result["break_even"]]
    return "\n\n".join([
        "\n".join(parts), markdown(*short_rows(results), 1), markdown(*long_rows(results), 1),
        markdown(*engine_rows(results), 1), *filter(None, [ways_as_markdown(results), "\n".join(crossings)])])


def told_apart(results: Sequence[Result]) -> list[Result]:
    """The results, with what differs between those of one network and batch behind the network's name."""
    alike: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        alike.setdefault((result["model"], result["batch_size"]), []).append(result)
    named = []
    for result in results:
        others = alike[result["model"], result["batch_size"]]
        words = [own for own, *each in zip(conditions(result), *map(conditions, others)) if len({*each}) > 1]
        same = [other for other in others if conditions(other) == conditions(result)]
        if len(same) > 1:
            words.append(f"measurement {1 + next(i for i, other in enumerate(same) if other is result)}")
        named.append({**result, "model": ", ".join([result["model"], *words])})
    return named


def conditions(result: Result) -> list[str]:
    """What a benchmark is of beside its network and batch, in words."""
    return ["Synthetic masks" if result["masks"] == "synthetic" else f"Own masks on {result['images']}",
            f"{in_words(result['image_size'])} pixels", counted(result["threads"], "thread"),
            f"{result['execution']} execution", f"on {result['processor']}"]


def about(results: Sequence[Result]) -> list[str]:
    """What the figures are of, once for all that have it in common."""
    found = []
    for result in results:
        *first, where = conditions(result)
        found.append(f"{', '.join(first)}, medians of {counted(result['rounds'], 'round')}, {where}; "
                     + ", ".join(f"{name} {v}" for name, v in result["versions"].items() if v))
    return list(dict.fromkeys(found))


def short_rows(results: Sequence[Result]) -> Table:
    """A row a network and batch: the fastest dense engine, and at each budget the fastest of our float precisions."""
    budgets = sorted({row["budget"] for result in results for row in result["rows"] if row["budget"] < 1})
    head = ["network", "batch", f"share of the dense MACs at {' / '.join(f'{b:g}' for b in budgets)}",
            "fastest dense engine at any float precision"]
    head += [heading for b in budgets for heading in (f"at {b:g}", "speedup")]
    rows = []
    for result in results:
        best = {row["budget"]: row for row in sorted(result["rows"], key=lambda row: -row["ms"])
                if row["precision"] != "int8"}
        shares = " / ".join(f"{100 * best[b]['macs_ratio']:.1f}" if b in best else "-" for b in budgets)
        cells = [result["model"], str(result["batch_size"]), f"{shares} %", engine(result["fastest"]["any"])]
        for b in budgets:
            row = best.get(b)
            cells += ["-", "-"] if row is None else [f"{row['ms']:.1f} ms, {row['precision']}", ratio(row["speedup"])]
        rows.append(cells)
    return head, rows


def long_rows(results: Sequence[Result]) -> Table:
    """A row a network, batch, budget and precision, with everything that was measured."""
    int8 = any("int8" in result["fastest"] for result in results)
    head = ["network", "batch", "budget", "share of the dense MACs", "precision", "ms",
            "fastest dense engine at the same precision", "speedup", "fastest at any float precision", "speedup",
            "efficiency", "logits off by", *["fastest in int8", "speedup"] * int8]
    rows = []
    for result in results:
        for row in sorted(result["rows"], key=lambda row: (row["budget"], row["precision"])):
            same, fastest = result["fastest"].get(row["precision"]), result["fastest"]
            rows.append([
                result["model"], str(result["batch_size"]), f"{row['budget']:g}", f"{100 * row['macs_ratio']:.1f} %",
                row["precision"], f"{row['ms']:.1f}", "-" if same is None else engine(same, False),
                ratio(row["speedup_same_precision"]), engine(fastest["any"]), ratio(row["speedup"]),
                f"{row['efficiency']:.2f}", f"{percent(row['logits_apart'])} %",
                *([engine(fastest["int8"], False) if "int8" in fastest else "-", ratio(row["speedup_int8"])]
                  if int8 else [])])
    return head, rows


def engine_rows(results: Sequence[Result]) -> Table:
    """A row a dense engine and precision, a column a network and batch: milliseconds, and how far the logits are."""
    titles = dict.fromkeys((peer["engine"], peer["precision"]) for result in results for peer in result["peers"])
    head = ["dense engine", "precision", *(f"{r['model']}, batch {r['batch_size']}" for r in results)]
    rows = []
    for name, precision in sorted(titles, key=lambda title: title[1] == "int8"):
        peers = [next((p for p in r["peers"] if (p["engine"], p["precision"]) == (name, precision)), None)
                 for r in results]
        rows.append([name, precision, *("-" if p is None else f"{p['ms']:.1f} ms ({percent(p['logits_apart'])} %)"
                                        for p in peers)])
    return head, rows


def engine(fastest: Mapping[str, Any], with_precision: bool = True) -> str:
    """A dense engine and its time: "openvino in bfloat16, 5.5 ms"."""
    return f"{fastest['title' if with_precision else 'engine']}, {fastest['ms']:.1f} ms"
