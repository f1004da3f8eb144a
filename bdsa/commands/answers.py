"""What a network says to the same images at several budgets, kept block by block: bdsa-visualize's numbers."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bdsa.budgets import Budget, Budgets
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork

BATCH = 16  # images in memory at a time, on the device


@dataclass
class Answer:
    """What the network says to N images at one budget; everything lies on the CPU.

    Attributes:
        budget: below 1.
        masks: a list over blocks of bool [N, 1, h, w].
        soft_masks: a list over blocks of float32 [N, 1, h, w]: sigmoid of the logits without noise.
        predictions: the class of each image.
        fractions, macs: conditional fraction and MACs (mask units included) of each image.
    """
    budget: Budget
    masks: list[Tensor]
    soft_masks: list[Tensor]
    predictions: list[int]
    fractions: list[float]
    macs: list[float]

    @property
    def name(self) -> str:
        return self.budget.name

    def densities(self) -> Tensor:
        """Share of positions that ran: float64 [N, blocks]."""
        return torch.stack([mask.cpu().double().mean(dim=(1, 2, 3)) for mask in self.masks], dim=1)


def masked_budgets(network: AdaptiveNetwork, asked: Iterable[float] | None) -> list[Budget]:
    """The budgets with masks: those asked for, each below 1 and within the network's reach, or all that were trained.

    Raises:
        UserError: for one out of reach, or the dense one, which has no masks.
    """
    adaptive = list(network.budgets.adaptive)
    if not adaptive:
        raise UserError("this checkpoint has the dense budget only, which runs every block everywhere: "
                        "there are no masks to show")
    wanted = adaptive if asked is None else list(Budgets(asked))
    for budget in wanted:
        network.require(budget)
        if budget.is_dense:
            raise UserError(f"budget 1 is the dense network, which runs every block everywhere: there are no masks "
                            f"to show; this network has masks for {', '.join(f'{b:g}' for b in adaptive)}")
    return wanted


@torch.inference_mode()
def ask(network: AdaptiveNetwork, images: Tensor, budgets: Iterable[float], device: torch.device) -> list[Answer]:
    """Run images [N, 3, S, S] at each budget; the network must be on `device` and in eval mode."""
    answers = []
    for budget in map(network.require, budgets):
        outputs = [network(batch.to(device), budget=budget, return_usage=True) for batch in images.split(BATCH)]
        usages = [usage for _, usage in outputs]
        answers.append(Answer(
            budget,
            masks=[torch.cat(parts).cpu() for parts in zip(*(usage.masks for usage in usages))],
            soft_masks=[torch.cat(parts).sigmoid().cpu() for parts in zip(*(usage.mask_logits for usage in usages))],
            predictions=torch.cat([logits.argmax(dim=1) for logits, _ in outputs]).tolist(),
            fractions=torch.cat([usage.conditional_fraction for usage in usages]).tolist(),
            macs=torch.cat([usage.macs for usage in usages]).tolist()))
    return answers


def mean_row(answer: Answer, labels: list[int | None]) -> dict[str, Any]:
    """A budget's means over the images, and how many of those with a label are right."""
    known = [(label, predicted) for label, predicted in zip(labels, answer.predictions) if label is not None]
    return {"name": answer.name, "budget": float(answer.budget), "images": len(answer.predictions),
            "conditional_fraction": sum(answer.fractions) / len(answer.fractions),
            "macs": sum(answer.macs) / len(answer.macs),
            "labelled": len(known), "right": sum(label == predicted for label, predicted in known),
            "densities": answer.densities().mean(dim=0).tolist()}


def image_row(answer: Answer, index: int, classes: list[str]) -> dict[str, Any]:
    """One image at one budget."""
    return {"predicted": classes[answer.predictions[index]], "conditional_fraction": answer.fractions[index],
            "macs": answer.macs[index], "densities": answer.densities()[index].tolist()}
