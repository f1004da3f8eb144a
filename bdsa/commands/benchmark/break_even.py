"""The break-even: the density from which another way to run the same network is the faster one.

The time of a budget is taken to be linear in the density between those that were measured. Beside the budgets asked
for, synthetic masks of larger ones are measured, through the mask units of the largest budget.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from bdsa.budgets import Budget
from bdsa.commands.benchmark.own_engine import OwnEngine
from bdsa.commands.benchmark.synthetic_masks import block_shapes, synthetic_masks
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import precision_taken
from bdsa.sparse.latency import network_engine

PROBED = (0.7, 0.9)  # of the dense blocks' MACs
FROM = 0.05          # a probe nearer than this to a budget says nothing new
MASKED = "masked"    # the other way that is no dense engine


def probes(networks: Mapping[str, AdaptiveNetwork], budgets: Iterable[Budget], execution: str,
           inputs: Sequence[Tensor], seed: int, blob: float) -> list[OwnEngine]:
    """Engines to find the break-even with: at each precision masked execution and masks of more positions.

    Args:
        networks: by the precision asked for; they have seen the inputs.
        budgets: that are measured anyway.
        execution: "sparse" or "auto".
        inputs: images [B, 3, H, W] each.
        seed, blob: of the masks; see `synthetic_masks`.

    Returns:
        Engines whose row holds density, None for masked execution, whose time is that of any, precision, of the budgets
        that it is to be held against, and ran, its own.
    """
    adaptive = [budget for budget in budgets if not budget.is_dense]
    if not adaptive:
        return []
    largest = max(adaptive)
    probed = [b for b in PROBED if all(abs(b - budget) >= FROM for budget in adaptive)]
    shapes = block_shapes(next(iter(networks.values())), tuple(inputs[0].shape[2:]))
    size, engines = len(inputs[0]), []
    ran = {way: _precisions(networks, largest, way) for way in (execution, MASKED)}
    for wanted in probed:
        whole = synthetic_masks(shapes, wanted, size * len(inputs), seed, blob)
        masks = [list(each) for each in zip(*(mask.split(size) for mask in whole), strict=True)]
        density = sum(float(mask.float().mean()) for mask in whole) / len(whole)
        engines += [OwnEngine(f"probe {wanted:g} {asked}", network_engine(n, inputs, largest, execution, masks),
                              {"precision": ran[execution][asked], "ran": ran[execution][asked], "density": density})
                    for asked, n in networks.items()]
    engines += [OwnEngine(f"{MASKED} {asked}", network_engine(n, inputs, largest, MASKED),
                          {"precision": ran[execution][asked], "ran": ran[MASKED][asked], "density": None})
                for asked, n in networks.items()]
    return engines


def _precisions(networks: Mapping[str, AdaptiveNetwork], budget: Budget, execution: str) -> dict[str, str]:
    """What each network runs a budget in, by the precision asked for; its execution is left at this one."""
    for network in networks.values():
        network.execution = execution
    return {asked: precision_taken(network, budget) for asked, network in networks.items()}


def break_evens(rows: Sequence[Mapping[str, Any]], probed: Sequence[Mapping[str, Any]],
                fastest: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each precision the break-even with masked execution and with the fastest dense engines.

    Args:
        rows: of the budgets: precision, density, ms. A dense one (density 1) is another way of its own.
        probed: rows of `probes`, with ms.
        fastest: see `own_engine.timed_row`.

    Returns:
        Of each pair: precision, against (what it is called) and its ms, from and to, the densities measured, and
        density: where it becomes the faster one; None where it nowhere does, 0 where it is so everywhere.
    """
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        mine = [row for row in [*rows, *probed] if row["precision"] == precision]
        line = sorted((row["density"], row["ms"]) for row in mine if row["density"] is not None and row["density"] < 1)
        if not line:
            continue
        others = {f"{MASKED} in {row['ran']}": row["ms"] for row in mine if row["density"] is None}
        others.update({engine["title"]: engine["ms"] for name in (precision, "any")
                       if (engine := fastest.get(name)) is not None})
        found += [{"precision": precision, "against": name, "ms": ms, "from": line[0][0], "to": line[-1][0],
                   "density": crossing(line, ms)} for name, ms in others.items()]
    return found


def crossing(line: Sequence[tuple[float, float]], level: float) -> float | None:
    """Where a piecewise linear time first exceeds a level: a density, 0 where it starts above, None if it stays below.

    Args:
        line: (density, ms), by density.
        level: ms.
    """
    if line[0][1] > level:
        return 0.0
    for (d0, t0), (d1, t1) in pairwise(line):
        if t1 > level:
            return d0 + (d1 - d0) * (level - t0) / (t1 - t0)
    return None


def in_words(crossed: Mapping[str, Any], execution: str) -> str:
    """A break-even as a sentence."""
    name, other, density = f"{execution} in {crossed['precision']}", crossed["against"], crossed["density"]
    if density is None:
        return f"{name} is faster than {other} up to density {crossed['to']:.2f}, the largest measured"
    if density == 0:
        return f"{name} is slower than {other} from density {crossed['from']:.2f}, the smallest measured"
    return f"{name} is slower than {other} from density {density:.2f}"
