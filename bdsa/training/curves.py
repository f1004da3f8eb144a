"""Measure, on training images, what moved thresholds give: the curves by which a network meets any budget."""
from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, zip_longest

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from bdsa.budgets import Budget
from bdsa.errors import UserError
from bdsa.method.curves import SHARES, Curve, Point, at_share, log_odds, share_at
from bdsa.method.norms import Blend
from bdsa.models.modes import evaluating, one_look
from bdsa.models.network import AdaptiveNetwork
from bdsa.training.calibration import next_offset

log = logging.getLogger(__name__)

GAP = 0.05            # between the fractions of two points, about
HIGHEST = 0.995       # up to which the largest trained budget's thresholds are moved
FIRST = 0.1           # step from where a budget was trained
LOWEST = 1 / 3        # of the smallest trained budget: down to which its thresholds are moved
CLOSE = 0.004         # enough of a fraction that was wanted
STEPS = 40            # points on one side of a trained budget, at most
TRIALS = 2            # of blends at one offset, at most
LONGEST = 4.0         # that one step moves the thresholds
SEEN = 256            # images by which it is chosen who serves, about
NEAR = 0.01           # of the fraction at which they are compared
TRIES = 6             # until it is met
WORSE = 4 / 3         # times the other's divergence: up to there the lower of two budgets serves those between


def calibrate_curves(network: AdaptiveNetwork, batches: Iterable[Tensor]) -> dict[str, Curve]:
    """Measure a network's curves, so that it can be asked for any budget, and give them to it.

    A curve belongs to the weights that it was measured with: measure anew after training on.

    Args:
        network: with trained budgets below 1; its weights and its mode stay as they are.
        batches: training images as inference sees them, each [B, 3, H, W]; some hundred are enough.

    Returns:
        By the budget's name its curve, also as `network.curves`: checkpoints and exported files carry them.

    Raises:
        UserError: for a network without budgets below 1, or no images.
    """
    images, budgets = list(batches), network.budgets.adaptive
    if not budgets or not sum(map(len, images)):
        raise UserError("there are no curves to measure: " + ("no images were given" if budgets else
                        "this network has no budget below 1"))
    with evaluating(network), one_look(network):
        curves: dict[str, Curve] = {}
        low = budgets[0] * LOWEST
        for budget, following in zip_longest(budgets, budgets[1:]):
            crossover = _crossover(network, images, budget, following) if following else 1.0
            high = at_share(budget, following, crossover) if following else HIGHEST
            curve = _measure(network, images, budget, following if crossover else None, low, high)
            curves[budget.name] = curve = replace(curve, crossover=crossover)
            low = high
            log.info("budget %s: thresholds moved by %+.2f to %+.2f give fractions %.2f to %.2f", budget.name,
                     min(curve.offsets), max(curve.offsets), min(curve.fractions), max(curve.fractions))
    network.curves = curves
    return curves


def budgets_between(network: AdaptiveNetwork) -> list[Budget]:
    """Every fiftieth between the smallest trained budget and 1; none without curves."""
    if not network.curves:
        return []
    steps = [Budget(step / 50) for step in range(1, 50)]
    return [b for b in steps if b > network.budgets.values[0]]


@torch.inference_mode()
def _crossover(network: AdaptiveNetwork, batches: list[Tensor], own: Budget, following: Budget) -> float:
    """The share of the way to the next trained budget up to which a trained one serves, with blended norms.

    At a quarter of the way, halfway and at three quarters the answers of both are compared with those of the next
    budget, the more accurate of the two. That needs no labels, and says more than the accuracy on images that were
    trained on. The next one serves from where its divergence is less than three quarters of the other's: moved by
    little, it is near to itself.
    """
    few = batches[:max(1, SEEN // len(batches[0]))]
    wanted = _answers(network, few, network.point(following))[0].exp()
    for step in range(1, SHARES):
        budget, apart = at_share(own, following, step / SHARES), []
        for name, blend in ((own.name, Blend(own.name, following.name, step / SHARES)), (following.name, None)):
            tried: list[tuple[float, float]] = []
            while len(tried) < TRIES and (not tried or abs(tried[-1][1] - budget) > NEAR):
                offset = next_offset(tried, budget, LONGEST) if tried else FIRST if blend else -FIRST
                answers, fraction = _answers(network, few, Point(name, offset, None, blend))
                tried.append((offset, fraction))
            apart.append(float(kl_div(answers, wanted, reduction="batchmean")))
        if apart[0] > WORSE * apart[1]:
            return (step - 0.5) / SHARES if step > 1 else 0.0  # where the blend before it ends
    return 1.0


def _answers(network: AdaptiveNetwork, batches: list[Tensor], point: Point) -> tuple[Tensor, float]:
    """Log-probabilities of the images' classes at a point, [B, classes], and their mean conditional fraction."""
    made = [network(images, budget=point, return_usage=True) for images in batches]
    fractions = torch.cat([usage.conditional_fraction for _, usage in made])
    return torch.cat([logits for logits, _ in made]).float().log_softmax(dim=1), float(fractions.mean())


def _measure(network: AdaptiveNetwork, batches: list[Tensor], own: Budget, following: Budget | None, low: float,
             high: float) -> Curve:
    """The curve of a trained budget.

    Args:
        network: in evaluation mode.
        batches: images [B, 3, H, W] each.
        following: the one whose norms its own go over to, above it.
        low, high: fractions that it reaches, about.
    """
    found: dict[float, tuple[float, list[float]]] = {}

    def measure(offset: float, expected: float) -> float:
        """The fraction at an offset, with the blend that belongs to it: that of what is expected there, then found."""
        share = -1.0
        for _ in range(TRIALS):
            before, share = share, share_at(expected, own, following) if following else 0.0
            if share == before:
                break
            blend = Blend(own.name, following.name, share) if following and share else None
            found[offset] = _fractions(network, batches, Point(own.name, offset, None, blend))
            expected = found[offset][0]
        return found[offset][0]

    measure(0.0, own)
    for sign, goal in ((1, high), (-1, low)):
        offset, step, wanted = 0.0, FIRST, float(own)
        for _ in range(STEPS):
            before = found[offset][0]
            if sign * (goal - before) <= CLOSE and len(found) > 1:
                break
            reached, offset = offset, offset + sign * step
            fraction = measure(offset, wanted)
            # The next step keeps to the gap, by the slope of the log-odds, which changes slowly.
            slope = (log_odds(fraction) - log_odds(before)) / (offset - reached)
            wanted = min(max(fraction + sign * GAP, low / 2), (1 + high) / 2)
            wide = sign * (log_odds(wanted) - log_odds(fraction)) / slope if slope > 0 else LONGEST
            step = min(max(wide, step / 2), 2 * step, LONGEST)
    for _ in range(STEPS):  # where many positions crossed the threshold together, a step was too wide
        width, a, b = max((found[b][0] - found[a][0], a, b) for a, b in pairwise(sorted(found)))
        if width <= 2 * GAP:
            break
        measure((a + b) / 2, (found[a][0] + found[b][0]) / 2)
    rows, most = [], 0.0
    for offset in sorted(found):  # more positions at one block can mean fewer at the next: by a hair the sum may fall
        rows.append((offset, most := max(most, found[offset][0]), tuple(found[offset][1])))
    offsets, fractions, blocks = zip(*rows)
    return Curve(offsets, fractions, blocks, sum(map(len, batches)))


def _fractions(network: AdaptiveNetwork, batches: list[Tensor], point: Point) -> tuple[float, list[float]]:
    """The mean conditional fraction of the images at a point, and each block's."""
    sums = torch.zeros((), dtype=torch.float64)
    with torch.inference_mode():
        for images in batches:
            _, usage = network(images, budget=point, return_usage=True)
            both = torch.cat([usage.conditional_fraction[:, None], usage.block_fractions], dim=1)  # [B, 1 + blocks]
            sums = sums + both.sum(dim=0).cpu()
    whole, *blocks = (sums / sum(map(len, batches))).clamp(0, 1).tolist()
    return whole, blocks
