"""Two runs or two sweeps side by side: which settings changed between them, and what that did at each budget.

Changed are the settings whose values on one side never occur on the other; runs are matched by all others, budget
by budget, so that networks of one budget each can stand beside one network for all of them.
"""
from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bdsa.budgets import Budget
from bdsa.report.networks import setting_value
from bdsa.runs.places import PLACES, place_names
from bdsa.runs.reading import Run
from bdsa.runs.target_runs import measured_data

MEASURES = ("top1", "top5", "conditional_fraction", "macs", "latency_ms")
_PLACES = {*PLACES, "awareness.targets"}


@dataclass
class Pair:
    """A budget of two runs that differ in the changed settings alone."""
    budget: float
    one: Run
    other: Run

    def values(self, measure: str) -> tuple[float | None, float | None]:
        """The number on either side; None where a run has none."""
        rows = [next(r for r in run.results["rows"] if r["budget"] == self.budget) for run in (self.one, self.other)]
        return rows[0].get(measure), rows[1].get(measure)


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        changed: setting -> its values on either side.
        pairs: matched runs by budget, ascending.
        remarks: what did not match and what does not compare, in words.
    """
    changed: dict[str, tuple[list[str], list[str]]]
    pairs: list[Pair] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def budgets(self) -> list[float]:
        return sorted({pair.budget for pair in self.pairs})

    def untrained(self, budget: float) -> tuple[int, int]:
        """How many runs of either side were not trained for a budget: the dense path of a network for others."""
        pairs = [pair for pair in self.pairs if pair.budget == budget]
        return sum(budget not in p.one.trained for p in pairs), sum(budget not in p.other.trained for p in pairs)

    def summary(self, budget: float, measure: str) -> tuple[float, float, float, float | None] | None:
        """Means of both sides, of the difference, and its deviation; over pairs that have the number on both."""
        found = [values for p in self.pairs if p.budget == budget and None not in (values := p.values(measure))]
        if not found:
            return None
        differences = [b - a for a, b in found]
        return (statistics.fmean(a for a, _ in found), statistics.fmean(b for _, b in found),
                statistics.fmean(differences), statistics.stdev(differences) if len(found) > 1 else None)


def compare(ones: Sequence[Run], others: Sequence[Run]) -> Comparison:
    """Match the finished runs of two sides; a side of one run is compared like a sweep."""
    sides = [[run for run in side if run.results is not None] for side in (ones, others)]
    changed = changed_settings(*sides) if all(sides) else {}
    made = Comparison(changed)
    for side in (ones, others):
        made.remarks += [f"{run.name} is not finished and is left out" for run in side if run.results is None]
    cells = [_cells(side, set(changed), made.remarks) for side in sides]
    unmatched = [dict.fromkeys(run.name for key, run in cells[i].items() if key not in cells[1 - i]
                               and key[1] in run.trained) for i in (0, 1)]
    for (key, budget), run in sorted(cells[0].items(), key=lambda item: (item[0][1], item[1].name)):
        if (key, budget) in cells[1]:
            made.pairs.append(Pair(budget, run, cells[1][key, budget]))
    for names, which in zip(unmatched, ("first", "second")):
        if names and (made.pairs or which == "first"):
            shown = ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            made.remarks.append(f"without a partner, in the {which}, at one budget or more: {shown}")
    measured = [[f"{measured_data(run.settings, run.results)}, split {run.results['split']}" for run in pair]
                for pair in ((p.one, p.other) for p in made.pairs)]
    if apart := next((words for words in measured if words[0] != words[1]), None):
        made.remarks.append(f"they were measured on other images ({'; '.join(apart)}): top-1 does not compare")
    made.remarks += _environments(made.pairs)
    return made


def changed_settings(ones: Sequence[Run], others: Sequence[Run]) -> dict[str, tuple[list[str], list[str]]]:
    """Setting -> its values on either side, where no value occurs on both."""
    names = sorted({name for run in (*ones, *others) for name in run.settings})
    found = {}
    for name in names:
        left, right = (list(dict.fromkeys(_value(run, name) for run in side)) for side in (ones, others))
        if not {*left} & {*right}:
            found[name] = (left, right)
    return found


def _value(run: Run, name: str) -> str:
    value = run.settings.get(name)
    if name in _PLACES and isinstance(value, (str, list)):
        value = place_names(value)
    return setting_value(value)


def _cells(runs: Sequence[Run], changed: set[str], remarks: list[str]) -> dict[tuple[str, float], Run]:
    """(remaining settings, budget) -> its run; a second run of a place is left out and said."""
    cells: dict[tuple[str, float], Run] = {}
    for run in runs:
        key = json.dumps({n: _value(run, n) for n in sorted(run.settings) if n not in changed})
        for row in run.results["rows"]:
            budget = row["budget"]
            if not Budget(budget).is_dense and budget not in run.trained:
                continue
            here = cells.setdefault((key, budget), run)
            if here is run or budget not in run.trained:
                continue
            if budget not in here.trained:  # the dense path of another budget's network yields to one trained for it
                cells[key, budget] = run
                continue
            remark = (f"{run.name} and {here.name} differ in changed settings alone "
                      f"({', '.join(n for n in sorted(changed) if _value(run, n) != _value(here, n)) or 'in none'}): "
                      f"{here.name} is compared")
            if remark not in remarks:
                remarks.append(remark)
    return cells


def _environments(pairs: Sequence[Pair]) -> list[str]:
    """What may matter besides the settings: other versions of the code and torch, other processors for latencies."""
    def of(run: Run, key: str) -> Any:
        where = run.environment
        return (where.get("versions") or {}).get("torch") if key == "torch" else where.get(key)

    found = []
    for key in ("commit", "torch", "processor", "accelerator"):
        left, right = ({str(of(run, key)) for run in side}
                       for side in ([p.one for p in pairs], [p.other for p in pairs]))
        if left != right:
            found.append(f"{key}: {', '.join(sorted(left))} -> {', '.join(sorted(right))}")
    latencies = {json.dumps({k: v for k, v in run.results["latency"].items() if k != "dense_ms"}, sort_keys=True)
                 for p in pairs for run in (p.one, p.other) if isinstance(run.results.get("latency"), dict)}
    if len(latencies) > 1:
        found.append("latencies were measured in different ways, see each run's results.json")
    return found
