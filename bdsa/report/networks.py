"""From runs to the rows of a table: seeds become a mean, single-budget runs of one kind become one row.

A *network* is a row: either networks of one budget each that differ in nothing else, or one network for
several budgets. Runs that differ in trainer.seed alone are one network. A *data table* holds the networks
that were measured on the same images, because numbers of others do not compare.
"""
from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bdsa.budgets import DENSE, Budget
from bdsa.report.intervals import wilson
from bdsa.runs.places import PLACES, place_names
from bdsa.runs.reading import Run
from bdsa.runs.target_runs import measured_data

_SEED, _TARGETS = "trainer.seed", "budgets.targets"
_SHOWN = 3  # settings in a label, at most
PLAIN = re.compile(r"(?!null$|true$|false$|[-+.\d]+$)[\w./@%-]+", re.IGNORECASE | re.ASCII)  # needs no quotes


@dataclass
class Cell:
    """A network at a budget: the runs that measured it, and those that are to come."""
    budget: float
    runs: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)

    def values(self, key: str) -> list[float]:
        """One number a run, of the runs that have it."""
        rows = [next(r for r in run.results["rows"] if r["budget"] == self.budget) for run in self.runs]
        return [row[key] for row in rows if isinstance(row.get(key), (int, float))]

    def mean(self, key: str) -> float | None:
        values = self.values(key)
        return statistics.fmean(values) if values else None

    def deviation(self, key: str) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        values = self.values(key)
        return statistics.stdev(values) if len(values) > 1 else None

    def top1_interval(self) -> tuple[float, float] | None:
        """Ends of the error bar of top-1: the mean and its deviation over seeds, or the 95 % interval of one run."""
        mean, deviation = self.mean("top1"), self.deviation("top1")
        if mean is None:
            return None
        return wilson(mean, self.values("images")[0]) if deviation is None else (mean - deviation, mean + deviation)


@dataclass
class Network:
    """A row of a table.

    Attributes:
        model: its name.
        single: whether each budget is a network of its own.
        settings: of its first run; all its runs agree but in seed and, if `single`, budget.
        cells: budget -> cell, ascending; with the dense path of a network of several budgets.
        label: what tells it from the table's other networks of its model and kind; may be empty.
    """
    model: str
    single: bool
    settings: dict[str, Any]
    cells: dict[float, Cell] = field(default_factory=dict)
    label: str = ""

    @property
    def runs(self) -> list[Run]:
        """All its runs, finished or not, each once."""
        return list({id(r): r for c in self.cells.values() for r in (*c.runs, *c.unfinished)}.values())

    @property
    def trained(self) -> list[float]:
        return sorted({b for run in self.runs for b in run.trained})

    @property
    def between(self) -> list[dict[str, Any]]:
        """Rows of budgets between those that were trained: of the first of its runs that has some."""
        return [] if self.single else next((run.between for run in self.runs if run.between), [])

    @property
    def cascade(self) -> list[dict[str, Any]]:
        """Rows of the cascade: of the first of its runs where it was measured."""
        return [] if self.single else next((run.cascade for run in self.runs if run.cascade), [])

    @property
    def kind(self) -> str:
        """How many networks it takes, in words."""
        return "a network a budget" if self.single else f"one for {', '.join(f'{b:g}' for b in self.trained)}"

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.model, self.kind, self.label)))


@dataclass
class DataTable:
    """Networks measured on the same images.

    Attributes:
        data, split: what was measured.
        networks: the rows.
        published: source of the published numbers, see `bdsa.report.published`; None for none.
        why_published: why that source was taken.
    """
    data: str
    split: str
    networks: list[Network]
    published: str | None = None
    why_published: str = ""

    @property
    def budgets(self) -> list[float]:
        return sorted({b for network in self.networks for b in network.cells})

    @property
    def title(self) -> str:
        return f"{self.data}, split {self.split}"


def data_tables(runs: list[Run], problems: list[str]) -> tuple[list[DataTable], list[Run]]:
    """The tables, and the unfinished runs that belong to none because no run of their data is finished."""
    tables: dict[tuple[str, str], dict[str, Network]] = {}
    homes: dict[str, tuple[str, str]] = {}  # data settings -> table: an unfinished run did not say what it measures
    for run in (r for r in runs if r.results is not None):
        where = (measured_data(run.settings, run.results), run.results["split"])
        homes.setdefault(_data_of(run), where)
        _add(tables.setdefault(where, {}), run, problems)
    homeless = []
    for run in (r for r in runs if r.results is None):
        where = homes.get(_data_of(run))
        if where is None:
            homeless.append(run)
        else:
            _add(tables[where], run, problems)
    made = [DataTable(*where, sorted(networks.values(), key=lambda n: (n.model, not n.single, n.trained)))
            for where, networks in tables.items()]
    if len(made) > 1:
        problems.append(f"the runs were measured on {len(made)} different sets of images: a table each, because their "
                        f"top-1 do not compare")
    for table in made:
        _label(table.networks)
    return made, homeless


def _data_of(run: Run) -> str:
    settings = {k: v for k, v in run.settings.items() if k.startswith("data.") or k == "trainer.limit_eval_images"}
    root = settings.pop("data.root")
    return json.dumps([settings, root and str(root).rstrip("/").rpartition("/")[2]], sort_keys=True, default=str)


def _key(run: Run) -> str:
    """Equal for runs of one network."""
    left_out = {_SEED, *PLACES} | ({_TARGETS} if len(run.trained) == 1 else set())
    places = {p: place_names(run.settings[p]) for p in PLACES}
    kept = {k: sorted(v) if k == _TARGETS else v for k, v in run.settings.items() if k not in left_out}
    return json.dumps([kept, places], sort_keys=True, default=str)


def _add(networks: dict[str, Network], run: Run, problems: list[str]) -> None:
    """Put a run into the cells of its network."""
    single = len(run.trained) == 1
    budgets = run.trained
    if run.results is not None and not single:
        budgets = sorted(r["budget"] for r in run.results["rows"])
    elif run.results is not None and not any(r["budget"] == run.trained[0] for r in run.results["rows"]):
        problems.append(f"{run.name}: results.json has no row of its budget {run.trained[0]:g}")
        return
    network = networks.setdefault(_key(run), Network(run.settings["model.name"], single, run.settings))
    for budget in budgets:
        cell = network.cells.setdefault(budget, Cell(budget))
        twin = next((r for r in (*cell.runs, *cell.unfinished) if r.seed == run.seed), None)
        if twin is not None:
            if budget == budgets[0]:
                problems.append(f"{run.name} has the settings and the seed of {twin.name}: {twin.name} is counted, "
                                f"{run.name} is not")
            continue
        (cell.unfinished if run.results is None else cell.runs).append(run)
    network.cells = dict(sorted(network.cells.items()))


def _label(networks: list[Network]) -> None:
    """Give each network the settings in which it differs from those of the same model and kind.

    Where these are too many to be shown, rows that still look alike show those too in which they differ from each
    other, or else a run's name.
    """
    alike: dict[tuple, list[Network]] = {}
    for network in networks:
        alike.setdefault((network.model, network.kind), []).append(network)
    for same in alike.values():
        names = _varying_here(same)
        for network in same:
            own_name = {run.config.get("name") for run in network.runs}
            if len(names) > _SHOWN and len(own_name) == 1 and None not in own_name:
                network.label = str(own_name.pop())
                continue
            network.label = _shown(network, names)
        for twins in (twins for twins in _by_label(same) if len(twins) > 1):
            names = _varying_here(twins)
            for network in twins:
                network.label = ", ".join(filter(None, (network.label, _shown(network, names))))
            for still in (still for still in _by_label(twins) if len(still) > 1):
                for number, network in enumerate(still, 1):
                    network.label = ", ".join(filter(None, (network.label, f"{network.runs[0].name} ({number})")))


def _by_label(networks: list[Network]) -> list[list[Network]]:
    found: dict[str, list[Network]] = {}
    for network in networks:
        found.setdefault(network.label, []).append(network)
    return list(found.values())


def _varying_here(networks: list[Network]) -> set[str]:
    found = varying([{k: place_names(v) if k in PLACES else v for k, v in n.settings.items()} for n in networks])
    return found - {_SEED, _TARGETS}


def _shown(network: Network, names: set[str]) -> str:
    """The first of these settings, and how many there are."""
    shown = [setting(name, network.settings[name]) for name in sorted(
        names, key=lambda name: (name.startswith("budgets."), name))]  # most of them follow from others
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if shown[_SHOWN:] else "")


def varying(all_settings: list[dict[str, Any]]) -> set[str]:
    """The settings that are not the same everywhere."""
    names = {name for settings in all_settings for name in settings}
    return {n for n in names if len({json.dumps(s.get(n), default=str, sort_keys=True) for s in all_settings}) > 1}


def setting(name: str, value: Any) -> str:
    """A setting as it is written on a command line, before the shell's quotes: "recipe.lr=0.1"."""
    return f"{name}={setting_value(value)}"


def setting_value(value: Any) -> str:
    """A value as Hydra's command line reads it: a string in quotes unless it is a plain word or path."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{setting_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(setting_value(v) for v in value) + "]"
    return str(value)


def untrained_dense(network: Network, budget: float) -> bool:
    """Whether a cell is the dense path of a network that was not trained for budget 1."""
    return Budget(budget).is_dense and DENSE not in network.trained


def expected_budgets(network: Network, networks: list[Network], further: Iterable[float] = ()) -> list[float]:
    """The budgets that a row of single-budget networks has or should have.

    Those are its own, the further ones, and those of all such rows that have a budget below 1 in common with it. A row
    of budget 1 alone is expected to have no other.
    """
    def below(row: Network) -> set[float]:
        return {b for b in row.cells if not Budget(b).is_dense}

    own = below(network)
    if not own:
        return sorted(network.cells)
    like_it = [row for row in networks if row.single and below(row) & own]
    return sorted({*network.cells, *further, *(b for row in like_it for b in row.cells)})
