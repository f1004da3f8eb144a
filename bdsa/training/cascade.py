"""Measure how sure a network's first answers are: what a cascade meets a mean budget by."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from bdsa.budgets import DENSE
from bdsa.data.datasets import Splits, get_split
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.errors import UserError
from bdsa.method.cascade import Confidence, confidence
from bdsa.models.modes import evaluating, one_look
from bdsa.models.network import AdaptiveNetwork

log = logging.getLogger(__name__)

IMAGES = 5000  # that confidence is measured on, at most: the standard error of a share is 0.7 points then, at most


def unseen_batches(splits: Splits, batch_size: int, workers: int | None, at_most: int | None = None
                   ) -> Iterator[Tensor]:
    """Images that were not trained on, as inference sees them, [B, 3, H, W] each: of what chose the epoch."""
    unseen = get_split(splits, splits.validated_on)
    unseen.draw()
    count = min(IMAGES, at_most or IMAGES)
    yield from (images for images, _ in eval_loader(limited(unseen, count), batch_size, workers))


@torch.inference_mode()
def calibrate_confidence(network: AdaptiveNetwork, batches: Iterable[Tensor], first: float | None = None,
                         second: float | None = None) -> Confidence:
    """Measure the confidence of a network's first answers, so that it can run as a cascade, and give it to it.

    The share of unsure images is what was measured here. A network is surer of images that it was trained on, so these
    would have more of the others looked at twice than the budget pays for. No labels are needed: take images of
    where it will run, or held-out ones, a thousand or more. Of a share s of n images the standard error is
    sqrt(s (1 - s) / n).

    Args:
        network: its weights and its mode stay as they are.
        batches: images as inference sees them, each [B, 3, H, W].
        first: the budget at which every image is looked at; None: the smallest trained one.
        second: that of the second look; None: the largest trained one.

    Returns:
        What was measured, also as `network.confidence`: checkpoints and exported files carry it.

    Raises:
        UserError: for a network with one budget, budgets that it does not have or in the wrong order, or no images.
    """
    trained = network.budgets.values
    asked = trained[0] if first is None else first, trained[-1] if second is None else second
    low, high = (float(network.point(b).budget or DENSE) for b in asked)
    if not low < high:
        raise UserError(f"a cascade's second look must have a larger budget than the first, not {low:g} and then "
                        f"{high:g}" + ("" if len(trained) > 1 else ": this network was trained for one budget"))
    if network.num_classes < 2:
        raise UserError(f"a cascade needs two classes or more to tell how sure an answer is, and this network has "
                        f"{network.num_classes}")
    sure, used = [], []
    with evaluating(network), one_look(network):
        for images in batches:
            looks = [network(images, budget=b, return_usage=True) for b in (low, high)]
            sure.append(confidence(looks[0][0]).cpu())
            used.append(torch.stack([usage.conditional_fraction for _, usage in looks]).double().cpu())  # [2, B]
    if not sum(map(len, sure)):
        raise UserError("there is no confidence to measure: no images were given")
    values = torch.cat(sure)
    if not bool(values.isfinite().all()):
        raise UserError("the network's logits for these images are infinite or not a number")
    first_used, second_used = torch.cat(used, dim=1).mean(dim=1).tolist()
    if not 0 < first_used < second_used:
        raise UserError(f"on these images budget {low:g} runs {first_used:.3f} of the conditional MACs and budget "
                        f"{high:g} {second_used:.3f}: a cascade needs a cheaper first look; calibrate budgets before")
    network.confidence = Confidence.of((low, high), (first_used, second_used), values)
    log.info("cascade: a first look at %g, a second one at %g, measured on %s images", low, high, f"{len(values):,}")
    return network.confidence
