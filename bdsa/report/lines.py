"""The numbers of a table, once for every form: Markdown, LaTeX, CSV and the page only write them differently."""
from __future__ import annotations

from dataclasses import dataclass

from bdsa.report.networks import Cell, DataTable, Network, expected_budgets, untrained_dense
from bdsa.report.published import published_top1
from bdsa.report.terminal import human_count


@dataclass
class Line:
    """A network at a budget.

    Attributes:
        network, budget: what was measured.
        runs, unfinished: how many.
        top1, deviation: percent, mean over seeds and sample standard deviation.
        interval: the ends of the error bar of top-1, see `Cell.top1_interval`.
        top5: percent; None where no run has it, because there are few classes.
        fraction, macs, share: conditional fraction, MACs of an image, and their share of the dense network's.
        latency_ms, speedup: measured, against the fastest dense engine; None where no run has them.
        published, difference: published top-1, and the measured one minus it, percent.
        untrained: whether it is the dense path of a network that was not trained for it.
    """
    network: Network
    budget: float
    runs: int
    unfinished: int
    top1: float | None = None
    deviation: float | None = None
    interval: tuple[float, float] | None = None
    top5: float | None = None
    fraction: float | None = None
    macs: float | None = None
    share: float | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    published: float | None = None
    difference: float | None = None
    untrained: bool = False

    @property
    def low(self) -> float | None:
        """The lower end of `interval`."""
        return self.interval[0] if self.interval else None

    @property
    def state(self) -> str:
        """What stands where the number would be: "missing", "not finished", "failed"; empty where there is one."""
        if self.runs:
            return ""
        cell = self.network.cells.get(self.budget)
        if cell is None:
            return "missing"
        return "failed" if any(run.failure for run in cell.unfinished) else "not finished"


def table_lines(table: DataTable, budgets: list[float]) -> list[Line]:
    """A line for every network and budget that there is or should be.

    Args:
        budgets: further budgets that rows of single-budget networks should have.
    """
    return [_line(table, network, budget) for network in table.networks
            for budget in (expected_budgets(network, table.networks, budgets) if network.single else network.cells)]


def _line(table: DataTable, network: Network, budget: float) -> Line:
    cell = network.cells.get(budget, Cell(budget))
    top1, macs = cell.mean("top1"), cell.mean("macs")
    published = published_top1(table, network.model, budget)
    untrained = untrained_dense(network, budget)
    dense = [run.results["dense_macs"] for run in cell.runs]
    return Line(
        network, budget, len(cell.runs), len(cell.unfinished), top1, cell.deviation("top1"), cell.top1_interval(),
        cell.mean("top5"), cell.mean("conditional_fraction"), macs, macs / dense[0] if dense and dense[0] else None,
        cell.mean("latency_ms"), cell.mean("speedup"), published,
        None if top1 is None or published is None or untrained else top1 - published, untrained)


@dataclass(frozen=True)
class Column:
    """A column of the long table: its heading, a text for a reader and a number to sort by."""
    key: str
    heading: str

    def text(self, line: Line) -> str:
        """What stands in the cell; "-" where there is nothing."""
        value = getattr(line, self.key)
        if self.key == "budget":
            return f"{value:g}" + (" (dense, not trained)" if line.untrained else " (dense)" if value == 1 else "")
        if self.key == "top1" and value is None:
            return line.state or "-"
        if self.key == "runs":
            return f"{value}" + (f" of {value + line.unfinished}" if line.unfinished else "")
        if value is None:
            return "-"
        if self.key == "top1":
            return f"{value:.2f}" + ("" if line.deviation is None else f" ± {line.deviation:.2f}")
        if self.key == "low":
            return "{:.2f} to {:.2f}".format(*line.interval)
        if self.key == "macs":
            return human_count(value)
        form = {"top5": ".2f", "fraction": ".3f", "share": ".1%", "latency_ms": ".2f", "speedup": ".2f",
                "published": ".2f", "difference": "+.2f"}[self.key]
        return f"{value:{form}}".replace("%", " %").replace("-", "−")


_ALL = (Column("budget", "budget"), Column("top1", "top-1 %"), Column("top5", "top-5 %"),
        Column("fraction", "conditional fraction"), Column("macs", "MACs"), Column("share", "of dense MACs"),
        Column("latency_ms", "latency ms"), Column("speedup", "speedup"), Column("published", "published top-1 %"),
        Column("difference", "difference"), Column("low", "interval"), Column("runs", "runs"))


def columns(lines: list[Line]) -> list[Column]:
    """The columns that have something to say: top-5, latency, published numbers and intervals where there are any."""
    optional = {"top5", "latency_ms", "speedup", "published", "difference", "low"}
    return [c for c in _ALL if c.key not in optional or any(getattr(line, c.key) is not None for line in lines)]


def wide_cell(line: Line | None) -> str:
    """A cell of the table models x budgets: top-1, deviation and the difference to the published number."""
    if line is None:
        return ""
    if line.top1 is None:
        return line.state
    text = f"{line.top1:.2f}" + ("" if line.deviation is None else f" ± {line.deviation:.2f}")
    if line.difference is not None:
        text += f" ({line.difference:+.2f})".replace("-", "−")
    return text + ("*" if line.untrained else "")


def latency_conditions(table: DataTable) -> list[str]:
    """How latencies were measured, or why they were not, a sentence for each different way."""
    ways: dict[tuple[str, str, str], list[str]] = {}
    dense: dict[tuple[str, str, str], list[float]] = {}
    for network in table.networks:
        for run in network.runs:
            if run.results is None or not isinstance(how := run.results.get("latency"), dict):
                continue
            if "note" in how:
                way = str(how["note"]), "", ""
            else:
                mean = f", the mean of {how['images']} images" if how.get("images") else ""
                about = (f"batch {how.get('batch_size', '?')}{mean}, {how.get('threads', '?')} threads of "
                         f"{how.get('processor', 'an unknown processor')}")
                engine = f", {how['dense_engine']}" if how.get("dense_engine") else ""
                way = about, engine, network.model  # a model has its own dense time
                dense.setdefault(way, []).extend([ms] if isinstance(ms := how.get("dense_ms"), (int, float)) else [])
            names = ways.setdefault(way, [])
            if network.title not in names:
                names.append(network.title)
    against = {way: f"; dense: {_range_of(times)}{way[1]}" for way, times in dense.items()}
    return [f"Latency of {'; '.join(names)}: {way[0]}{against.get(way, '')}." for way, names in ways.items()]


def _range_of(times: list[float]) -> str:
    """Milliseconds of some runs, from the least to the most."""
    if not times:
        return "not measured"
    least, most = f"{min(times):.2f}", f"{max(times):.2f}"
    return f"{least} ms" if least == most else f"{least} to {most} ms"
