"""Measure every budget of a network on a split, each image exactly once."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bdsa.budgets import Budget, Budgets
from bdsa.distributed import gather, sum_over_ranks
from bdsa.method.macs import count_type
from bdsa.models.modes import evaluating
from bdsa.models.network import AdaptiveNetwork

FEW_CLASSES = 10  # of which top-5 says nothing


@dataclass
class Evaluation:
    """What a split says about a network.

    Attributes:
        rows: one a budget, ascending: name, budget, top1 (percent), top5 where there are more than
            `FEW_CLASSES`, conditional_fraction, macs (per image, mask units included), images; beside a reference
            also reference_top1, and decisions_differ, the share of the masks' positions where it decides otherwise.
        densities: name -> share of active positions of each block, mean over images.
    """
    rows: list[dict]
    densities: dict[str, list[float]] = field(default_factory=dict)


def evaluated_budgets(network: AdaptiveNetwork, asked: Iterable[float] | None = None) -> list[Budget]:
    """The budgets to measure: those asked for, which the network must reach, or its usual ones."""
    return network.usual() if asked is None else [network.require(value) for value in Budgets(asked)]


def evaluate(network: AdaptiveNetwork, loader: Iterable[tuple[Tensor, Tensor]], budgets: Iterable[float],
             device: torch.device, on_batch: Callable[[], None] = lambda: None,
             reference: AdaptiveNetwork | None = None) -> Evaluation:
    """Top-1, conditional fraction and MACs of each budget, over the images of all processes' loaders.

    Args:
        network: left in the mode it was in. Where its budgets are exact (`per_image`), rows also have
            largest_fraction, that of the image which spent most.
        loader: batches of images [B, 3, H, W] and labels [B], no image in two processes.
        budgets: budgets that the network has.
        device: where the network is.
        on_batch: called after every batch, for progress.
        reference: a network in eval mode that is the same but for how it computes, for comparison.
    """
    budgets, blocks = [network.require(b) for b in budgets], len(network.adaptive_blocks())
    # A row a budget: images, right at first, among five, conditional fraction, MACs, right by the reference,
    # share of decisions that differ from its, each block's density.
    sums = torch.zeros(len(budgets), 7 + blocks, dtype=count_type(device), device=device)
    largest = [0.0 for _ in budgets]
    with torch.inference_mode(), evaluating(network):
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            for i, (row, budget) in enumerate(zip(sums, budgets)):
                exact, decided = (None, None) if reference is None else reference(images, budget=budget,
                                                                                  return_usage=True)
                if decided is not None and budget.is_dense:  # counting what it uses would run it in float32
                    logits, usage = network(images, budget=budget), decided
                else:
                    logits, usage = network(images, budget=budget, return_usage=True)
                if network.per_image:
                    largest[i] = max(largest[i], float(usage.conditional_fraction.max()))
                hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
                correct = right(logits, labels)
                compared = [torch.zeros_like(correct)] * 2 if exact is None else [
                    right(exact, labels), differing(usage.masks, decided.masks)]
                row += torch.stack([torch.full_like(correct, len(labels)), correct, hits.sum(dtype=sums.dtype),
                                    usage.conditional_fraction.sum(), usage.macs.sum(), *compared,
                                    *(m.to(sums.dtype).mean(dim=(1, 2, 3)).sum() for m in usage.masks)])
            on_batch()
    rows, densities = [], {}
    most = [max(each) for each in zip(*gather(largest))]
    for budget, worst, (images_seen, *totals) in zip(budgets, most, sum_over_ranks(sums).tolist()):
        correct, among_five, fraction, macs, by_reference, differ, *densities[budget.name] = (
            total / images_seen for total in totals)
        # Rounded: the same images summed up in another order give the same row.
        top5 = {"top5": round(100.0 * among_five, 6)} if network.num_classes > FEW_CLASSES else {}
        rows.append({"name": budget.name, "budget": float(budget), "top1": round(100.0 * correct, 6), **top5,
                     "conditional_fraction": round(fraction, 9), "macs": round(macs, 3), "images": int(images_seen)})
        if reference is not None:
            rows[-1].update(reference_top1=round(100.0 * by_reference, 6), decisions_differ=round(differ, 9))
        if network.per_image:
            rows[-1]["largest_fraction"] = round(worst, 9)
    return Evaluation(rows, densities)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of the images are classified as their labels say; a number of `count_type`."""
    return (logits.argmax(dim=1) == labels).sum(dtype=count_type(logits.device))


def differing(masks: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The share of an image's decisions that differ, over all blocks' positions, summed over images; of `count_type`.

    Args:
        masks, others: a bool [B, 1, h, w] a block.
    """
    differ = torch.stack([(a != b).sum(dtype=count_type(a.device)) for a, b in zip(masks, others, strict=True)])
    return differ.sum() / sum(mask[0].numel() for mask in masks)
