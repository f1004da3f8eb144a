"""A cascade: every image is looked at cheaply, and those whose answer is unsure once more at a larger budget."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_exporting

from bdsa.errors import UserError
from bdsa.method.cascade import confidence
from bdsa.method.curves import Point
from bdsa.models.any_budget import AnyBudget
from bdsa.models.points import check_mean, mean_budget
from bdsa.models.usage import Usage


def is_mean(budget: object, latency_ms: float | None) -> bool:
    """Whether a call asks for a budget, or a deadline, and not for a point or, by saying nothing, the dense network."""
    return not isinstance(budget, Point) and (budget is not None or latency_ms is not None)


def check_cascade(network: AnyBudget, budget: object, others: dict[str, Any]) -> None:
    """Raise UserError where a cascade cannot be what a call means.

    Args:
        others: by name, further arguments of the call, which must be None or False.
    """
    if network.training:
        raise UserError("cascade=True is for inference: call network.eval() before")
    if is_exporting() and network.execution == "masked":
        raise UserError("a masked network's export is one look, and a cascade is two: network.execution = 'sparse', or "
                        "bdsa.portable(network, cascade=True), exports both")
    check_mean(others)
    if network.several(budget):
        raise UserError("cascade=True meets one budget as a mean over images: give one, not one an image")


@torch.compiler.disable
def look_twice(network: AnyBudget, x: Tensor, budget: float, return_usage: bool, extrapolate: bool | None
               ) -> Tensor | tuple[Tensor, Usage]:
    """Classify images [B, C, H, W] at a mean budget; where an image is looked at twice, the second answer counts."""
    asked, known = mean_budget(network.confidence, budget), network.confidence
    if asked.is_dense or known is None:
        return network.forward(x, asked, return_usage, cascade=False)
    first, second = known.budgets
    how = {"cascade": False, "per_image": False, "extrapolate": extrapolate}
    out = network.forward(x, first, return_usage, **how)
    logits = out[0] if return_usage else out
    rows = (confidence(logits) < known.threshold(asked)).nonzero()[:, 0]
    if not len(rows):
        return out
    again = network.forward(x[rows], second, return_usage, **how)
    if not return_usage:
        return logits.index_copy(0, rows, again)
    return logits.index_copy(0, rows, again[0]), out[1].after(rows, again[1])
