"""Meet each budget at inference: move the masks' thresholds, on training images, after training.

Training meets a budget with noise and batch statistics; inference has neither, so the realised
fraction drifts. One offset per budget, added to the logits of all its mask units (it is stored in
their biases), brings the mean fraction back to the budget. It never looks at evaluation images.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from bdsa.budgets import DENSE
from bdsa.method.norms import BudgetBatchNorm2d
from bdsa.models.network import AdaptiveNetwork

log = logging.getLogger(__name__)


def shift_thresholds(network: AdaptiveNetwork, name: str, offset: float) -> None:
    """Add `offset` to the logits of every mask unit of the budget called `name`."""
    with torch.no_grad():
        for block in network.adaptive_blocks():
            block.mask_units[name].fc.bias += offset


def realised_fraction(network: AdaptiveNetwork, batches: Iterable[Tensor], budget: float) -> float:
    """Mean conditional fraction of the images at a budget, in the network's current mode."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for images in batches:
            _, usage = network(images, budget=budget, return_usage=True)
            total, count = total + usage.conditional_fraction.sum(), count + len(images)
    return float(total) / count


def calibrate_thresholds(network: AdaptiveNetwork, batches: list[Tensor], *, tolerance: float = 0.002,
                         steps: int = 16, reach: float = 16.0) -> dict[str, tuple[float, float]]:
    """Shift each budget's thresholds until its realised fraction equals the budget.

    Args:
        network: an adaptive network; only its mask units' biases change.
        batches: training images as inference sees them, each [B, 3, H, W].
        tolerance: stop when the fraction is this near to the budget.
        steps: at most this many bisections.
        reach: largest offset that is tried.

    Returns:
        name -> (fraction before, fraction after).
    """
    training = network.training
    network.eval()
    report = {}
    for name, budget in network.budgets.adaptive.items():
        before = now = realised_fraction(network, batches, budget)
        low, high, offset = -reach, reach, 0.0
        best, best_offset = abs(now - budget), 0.0
        for _ in range(steps):
            if abs(now - budget) <= tolerance:
                break
            low, high = (offset, high) if now < budget else (low, offset)
            # Near the start the wanted offset is small: grow from there before bisecting.
            if high == reach or low == -reach:
                new = offset + (1 if now < budget else -1) * max(0.1, abs(offset))
                new = min(max(new, -reach), reach)
            else:
                new = (low + high) / 2
            shift_thresholds(network, name, new - offset)
            offset, now = new, realised_fraction(network, batches, budget)
            if abs(now - budget) < best:
                best, best_offset = abs(now - budget), offset
        shift_thresholds(network, name, best_offset - offset)
        after = now if best_offset == offset else realised_fraction(network, batches, budget)
        report[name] = (before, after)
        log.info("budget %s: fraction %.3f -> %.3f on training images (offset %+.3f)",
                 name, before, after, best_offset)
    network.train(training)
    return report


def calibrate_dense_statistics(network: AdaptiveNetwork, batches: list[Tensor]) -> None:
    """Measure the dense path's batch statistics anew, where the dense budget was not trained.

    The convolutions moved with the other budgets, so the statistics that the dense norms started
    with no longer fit. Layers that all budgets share (the stem) stay as they are.
    """
    norms = [m for m in network.modules() if isinstance(m, BudgetBatchNorm2d)]
    training = network.training
    network.eval()
    momenta = [n.momentum for n in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.training, norm.momentum = True, None  # cumulative average over the batches
    with torch.no_grad():
        for images in batches:
            network(images, budget=DENSE)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.train(training)
