"""Meet each budget at inference: move the masks' thresholds, on training images, after training.

Training meets a budget with noise and batch statistics; inference has neither, so the realised
fraction drifts. One offset per budget, added to the logits of all its mask units (it is stored in
their biases), brings the mean fraction back to the budget. It never looks at evaluation images.
"""
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bdsa.budgets import DENSE, Budget
from bdsa.method.norms import BudgetBatchNorm2d
from bdsa.models.measuring import measuring
from bdsa.models.modes import evaluating, one_look
from bdsa.models.network import AdaptiveNetwork, weights_moved

log = logging.getLogger(__name__)


def shift_thresholds(network: AdaptiveNetwork, name: str, offset: float) -> None:
    """Add `offset` to the logits of every mask unit of the budget called `name`."""
    for block in network.adaptive_blocks():
        block.mask_units[name].shift(offset)
    weights_moved(network)


def realised_fraction(network: AdaptiveNetwork, batches: Iterable[Any], budget: float,
                      call: Callable[[Any], object] | None = None) -> float:
    """Mean conditional fraction of the images at a budget, in the network's current mode.

    Args:
        batches: images [B, 3, H, W], or whatever `call` takes.
        call: what runs the network once on a batch; None: the network itself.
    """
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            with measuring(network, budget) as used:
                network(batch) if call is None else call(batch)
            fractions = used.usage.conditional_fraction
            total, count = total + fractions.sum(), count + len(fractions)
    return float(total) / count


def calibrate_thresholds(network: AdaptiveNetwork, batches: list[Any], *, tolerance: float = 0.003,
                         steps: int = 12, reach: float = 30.0, call: Callable[[Any], object] | None = None
                         ) -> dict[str, tuple[float, float]]:
    """Shift each budget's thresholds until its realised fraction equals the budget.

    Args:
        network: an adaptive network; only its mask units' biases change. Curves and confidence are dropped.
        batches: training images as inference sees them, each [B, 3, H, W], or whatever `call` takes.
        call: what runs the network once on a batch; None: the network itself.
        tolerance: stop when the fraction is this near to the budget.
        steps: at most this many trials; the nearest is kept.
        reach: largest offset that is tried.

    Returns:
        name -> (fraction before, fraction after).
    """
    report, network.curves, network.confidence = {}, {}, None  # those were of other thresholds
    with evaluating(network), one_look(network):
        for budget in network.budgets.adaptive:
            current = 0.0

            def fraction_at(offset: float, budget: Budget = budget) -> float:
                nonlocal current
                shift_thresholds(network, budget.name, offset - current)
                current = offset
                return realised_fraction(network, batches, budget, call)

            tried = [(0.0, fraction_at(0.0))]
            while abs(tried[-1][1] - budget) > tolerance and len(tried) <= steps:
                tried.append((offset := next_offset(tried, budget, reach), fraction_at(offset)))
            offset, after = min(tried, key=lambda t: abs(t[1] - budget))
            shift_thresholds(network, budget.name, offset - current)
            report[budget.name] = (tried[0][1], after)
            log.info("budget %s: fraction %.3f -> %.3f on training images (offset %+.3f)",
                     budget.name, tried[0][1], after, offset)
    return report


def next_offset(tried: list[tuple[float, float]], budget: float, reach: float) -> float:
    """The next offset to try: a secant step in the log-odds of the fraction, where it is nearly linear.

    A step that leaves the bracket of what was tried is replaced by the bracket's middle.
    """
    def log_odds(fraction: float) -> float:
        clipped = min(max(fraction, 1e-3), 1 - 1e-3)
        return math.log(clipped / (1 - clipped))

    low = max([o for o, f in tried if f < budget], default=-reach)
    high = min([o for o, f in tried if f >= budget], default=reach)
    (o1, f1), slope = tried[-1], 2.0
    if len(tried) > 1 and tried[-2][0] != o1:
        slope = (log_odds(f1) - log_odds(tried[-2][1])) / (o1 - tried[-2][0])
    offset = o1 + (log_odds(budget) - log_odds(f1)) / slope if slope > 1e-3 else math.inf
    return offset if low < offset < high else (low + high) / 2


def calibrate_dense_statistics(network: AdaptiveNetwork, batches: list[Tensor]) -> None:
    """Measure the dense path's batch statistics anew, where the dense budget was not trained.

    The convolutions moved with the other budgets, so the statistics that the dense norms started
    with no longer fit. Layers that all budgets share (the stem) stay as they are.
    """
    norms = [m for m in network.modules() if isinstance(m, BudgetBatchNorm2d)]
    execution, momenta = network.execution, [n.momentum for n in norms]
    network.execution = "masked"  # which calls the norms
    with evaluating(network), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # cumulative average over the batches
        for images in batches:
            network(images, budget=DENSE)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.execution = execution
    weights_moved(network)
