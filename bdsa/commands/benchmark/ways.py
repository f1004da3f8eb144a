"""Automatic execution against the ways that it chooses from: it should be as fast as the fastest, but for 5 %."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from torch import Tensor

from bdsa.budgets import Budget
from bdsa.commands.benchmark.own_engine import Masks, OwnEngine, at_precisions
from bdsa.models.network import AdaptiveNetwork
from bdsa.report.tables import markdown
from bdsa.sparse.execution import precision_taken
from bdsa.sparse.latency import network_engine

WAYS = ("sparse", "masked")


def each_way(networks: Mapping[str, AdaptiveNetwork], budgets: Iterable[Budget], inputs: Sequence[Tensor],
             masks: Mapping[float, Masks]) -> list[OwnEngine]:
    """Engines that run every budget, the dense one too, each way alone.

    Args:
        networks: by the precision asked for; they have seen the inputs. Of "auto" the ways are those of all precisions.
        budgets: the network's.
        inputs: images [B, 3, H, W] each.
        masks: by budget; none for the network's own.
    """
    engines = []
    for asked, network in networks.items():
        alone = at_precisions(network, None) if asked == "auto" else {asked: network}
        for budget in budgets:
            network.execution = "auto"
            precision = precision_taken(network, budget)
            engines += [OwnEngine(f"{budget.name} {asked} {way} in {one}",
                                  network_engine(own, inputs, budget, way, masks.get(budget)),
                                  {"name": budget.name, "precision": precision, "way": _named(own, budget, way)})
                        for one, own in alone.items() for way in WAYS]
    return engines


def _named(network: AdaptiveNetwork, budget: Budget, way: str) -> str:
    """A way and the precision that a network runs it in; the network's execution is left at it."""
    network.execution = way
    return f"{way} in {precision_taken(network, budget)}"


def against_each_way(rows: Iterable[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How much longer automatic execution takes than the fastest way.

    Args:
        rows: of automatic execution: name, budget, precision, rounds_ms.
        timed: the rows of `each_way`, with rounds_ms.

    Returns:
        Of each budget and precision: budget, precision, way (the fastest one), its ms, and longer: a share of that
        time, the median over the rounds, because what slows the machine down slows what runs next to it too.
    """
    found = []
    for row in rows:
        ways = [each for each in timed if all(each[key] == row[key] for key in ("name", "precision"))]
        if ways:
            fastest = min(ways, key=lambda each: median(each["rounds_ms"]))
            ratios = [auto / alone for auto, alone in zip(row["rounds_ms"], fastest["rounds_ms"], strict=True)]
            found.append({"budget": row["budget"], "precision": row["precision"], "way": fastest["way"],
                          "ms": median(fastest["rounds_ms"]), "longer": median(ratios) - 1})
    return found


def in_words(compared: Mapping[str, Any]) -> str:
    """A row of `against_each_way` as a sentence."""
    longer = compared["longer"]
    return (f"budget {compared['budget']:g} in {compared['precision']}: auto takes {abs(longer):.0%} "
            f"{'longer' if longer > 0 else 'less'} than {compared['way']} alone, the fastest way "
            f"({compared['ms']:.2f} ms)")


def as_markdown(results: Sequence[Mapping[str, Any]]) -> str | None:
    """A row a network, batch and precision of finished benchmarks, a column a budget: the time of auto over the
    fastest way's, and which that is. None where no automatic execution was measured."""
    budgets = sorted({way["budget"] for result in results for way in result["ways"]})
    rows = []
    for result in results:
        for precision in dict.fromkeys(way["precision"] for way in result["ways"]):
            cells = {way["budget"]: f"{1 + way['longer']:.2f} ({way['way']})" for way in result["ways"]
                     if way["precision"] == precision}
            rows.append([result["model"], str(result["batch_size"]), precision, *(cells.get(b, "-") for b in budgets)])
    head = ["network", "batch", "auto, which runs in", *(f"at {budget:g}" for budget in budgets)]
    return markdown(head, rows, 1) if rows else None
