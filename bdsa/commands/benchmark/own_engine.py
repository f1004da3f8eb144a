"""The adaptive network as an engine of the benchmark: at a precision, at a budget, on masks."""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bdsa.budgets import Budget
from bdsa.commands.benchmark.dense_engine import logits_of
from bdsa.commands.benchmark.engines import check_agreement, tolerance
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import precision_taken
from bdsa.sparse.latency import Engine, network_engine
from bdsa.sparse.precision import multiplies
from bdsa.sparse.ranges import quantize, quantizes

Masks = Sequence[Sequence[Tensor]]  # for every input, a mask a block


@dataclass
class Reference:
    """What masked execution in float32 says of the inputs at a budget.

    Attributes:
        logits: [inputs * B, classes].
        masks: for every input, what each block decided, bool [B, 1, h, w].
    """
    logits: Tensor
    masks: list[list[Tensor]]

    @classmethod
    def of(cls, network: AdaptiveNetwork, budget: float, inputs: Sequence[Tensor], masks: Masks | None) -> Reference:
        """Ask a network in float32; its execution is left masked."""
        network.execution = "masked"
        with torch.inference_mode():
            found = [network(x, budget=budget, return_usage=True, masks=None if masks is None else masks[number])
                     for number, x in enumerate(inputs)]
        return cls(torch.cat([logits for logits, _ in found]), [usage.masks for _, usage in found])


@dataclass
class OwnEngine:
    """The network at a precision and a budget, ready to be timed.

    Attributes:
        key: its name among the engines that take turns.
        row: what a row of benchmark.json says of it, without its times.
    """
    key: str
    run: Engine
    row: dict[str, Any] = field(default_factory=dict)


RANGE_IMAGES = 32  # images by which ranges for int8 are measured, at most


def at_precisions(network: AdaptiveNetwork, asked: str | None, calibration: Tensor | None = None
                  ) -> dict[str, AdaptiveNetwork]:
    """The network by the precision that it runs at; a copy for each, because it keeps packed weights for one.

    Args:
        network: in float32.
        asked: "float32", "bfloat16", "int8", "auto" or None: both float ones where this processor has instructions for
            bfloat16, and int8 where there are images for it.
        calibration: images [N, 3, H, W] by which a network without ranges gets them; None: int8 is not wanted.
    """
    small = calibration is not None and (asked == "int8" or quantizes(network))
    if calibration is not None and small and not network.ranges:
        quantize(network, calibration, images=RANGE_IMAGES)
    wanted = [asked] if asked is not None else ["float32", *["bfloat16"] * multiplies(), *["int8"] * small]
    found = {}
    for precision in wanted:
        found[precision] = copy.deepcopy(network)
        found[precision].precision = precision
    return found


def own_engine(config: BenchmarkConfig, network: AdaptiveNetwork, asked: str, budget: Budget,
               inputs: Sequence[Tensor], masks: Masks | None, reference: Reference) -> OwnEngine:
    """A budget at the precision asked for: what it runs on the inputs, on average, and the engine to be timed.

    Raises:
        UserError: if the execution gives other logits than masked execution in float32.
    """
    dense = network.dense_macs(tuple(inputs[0].shape[2:]))
    execution = config.latency.execution
    run = network_engine(network, inputs, budget, execution, masks)
    logits = logits_of(run, len(inputs))  # the first may be recorded, and the next ones are played
    precision = precision_taken(network, budget)
    # Where a mask differs, logits may do so by any amount; what int8 costs depends on the network.
    own = masks is None and precision != "float32" or precision == "int8"
    apart = check_agreement(f"latency.execution={execution} in {precision}", logits, reference.logits,
                            float("inf") if own else tolerance(precision))
    density, fraction, macs, differ, positions = [], [], [], 0, 0
    with torch.inference_mode():
        for number, x in enumerate(inputs):
            _, usage = network(x, budget=budget, return_usage=True, masks=None if masks is None else masks[number])
            density.append(sum(float(m.float().mean()) for m in usage.masks) / len(usage.masks))
            fraction.append(float(usage.conditional_fraction.mean()))
            macs.append(float(usage.macs.mean()))
            differ += sum(int((a != b).sum()) for a, b in zip(usage.masks, reference.masks[number], strict=True))
            positions += sum(m.numel() for m in usage.masks)
    mean = {"density": density, "conditional_fraction": fraction, "macs_ratio": [m / dense for m in macs]}
    return OwnEngine(f"{budget.name} {asked}", run, {
        "name": budget.name, "budget": float(budget), "asked": asked, "precision": precision, "logits_apart": apart,
        "decisions_differ": None if masks is not None or budget.is_dense else differ / positions,
        **{key: sum(values) / len(values) for key, values in mean.items()}})


def timed_row(row: dict[str, Any], rounds_ms: list[float], fastest: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The row with its times.

    Args:
        row: see `own_engine`.
        rounds_ms: milliseconds of each round.
        fastest: the fastest dense engine by precision; "any": of all float precisions; of int8, if it was timed.

    Returns:
        Also ms, speedup (over the fastest dense engine at any float precision), speedup_same_precision and
        speedup_int8, None where there is no such engine, and efficiency: the share of 1 / macs_ratio that the speedup
        is, of a row in int8 that over the fastest of all.
    """
    ms = median(rounds_ms)

    def over(precision: str) -> float | None:
        return fastest[precision]["ms"] / ms if precision in fastest else None

    speedup = fastest["any"]["ms"] / ms
    of_all = min(speedup, over("int8") or speedup) if row["precision"] == "int8" else speedup
    return {**row, "ms": ms, "speedup": speedup, "speedup_same_precision": over(row["precision"]),
            "speedup_int8": over("int8"), "efficiency": of_all * row["macs_ratio"], "rounds_ms": rounds_ms}
