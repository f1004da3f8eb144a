"""Automatic execution against the ways that it chooses from: it should be as fast as the faster one, but for 5 %."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bdsa.budgets import Budget
from bdsa.commands.benchmark.own_engine import Masks, OwnEngine, taken
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.latency import network_engine

WAYS = ("sparse", "masked")


def each_way(networks: Mapping[str, AdaptiveNetwork], budgets: Iterable[Budget], inputs: Sequence[Tensor],
             masks: Mapping[float, Masks]) -> list[OwnEngine]:
    """Engines that run every budget each way alone.

    Args:
        networks: by the precision asked for; they have seen the inputs.
        budgets: the dense one is passed over.
        inputs: images [B, 3, H, W] each.
        masks: by budget; none for the network's own.
    """
    adaptive = [budget for budget in budgets if not budget.is_dense]
    return [OwnEngine(f"{budget.name} {asked} {way}", network_engine(network, inputs, budget, way, masks.get(budget)),
                      {"name": budget.name, "precision": taken(network, asked, budget), "way": way})
            for asked, network in networks.items() for budget in adaptive for way in WAYS]


def against_each_way(rows: Iterable[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How much longer automatic execution takes than the faster way.

    Args:
        rows: of automatic execution: name, budget, precision, ms.
        timed: the rows of `each_way`, with ms.

    Returns:
        Of each budget and precision: budget, precision, way (the faster one), ms, and longer, a share of that time.
    """
    found = []
    for row in rows:
        ways = [each for each in timed if all(each[key] == row[key] for key in ("name", "precision"))]
        if ways:
            faster = min(ways, key=lambda each: each["ms"])
            found.append({"budget": row["budget"], "precision": row["precision"], "way": faster["way"],
                          "ms": faster["ms"], "longer": row["ms"] / faster["ms"] - 1})
    return found


def in_words(compared: Mapping[str, Any]) -> str:
    """A row of `against_each_way` as a sentence."""
    longer, way = compared["longer"], compared["way"]
    return (f"budget {compared['budget']:g} in {compared['precision']}: auto takes {abs(longer):.0%} "
            f"{'longer' if longer > 0 else 'less'} than {way} alone, the faster way ({compared['ms']:.2f} ms)")
