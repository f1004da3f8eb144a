"""Batch norms at a budget between two trained ones, which own everything together: continuous budgets in training.

Weight, bias and running statistics at a share s of the way from one budget to the next are (1 - s) of the first one's
and s of the second one's (docs/method.md, section 4).
"""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Share = float | Tensor  # a scalar in 0..1; a tensor, so that a compiled graph serves all of them


def mixed(first: Tensor, second: Tensor, share: Share) -> Tensor:
    """(1 - share) of one tensor and share of another, in their type."""
    return torch.lerp(first, second, share.to(first.dtype) if isinstance(share, Tensor) else share)


def parts(share: Any) -> tuple[Any, Any]:
    """By how much two budgets move, so that what lies at a share between them moves by one, and they by the least."""
    whole = (1 - share) ** 2 + share ** 2
    return (1 - share) / whole, share / whole


def count_batch(norm: Any) -> float:
    """Count one more batch of a norm, and say by which share its statistics move to it; cumulative as in torch."""
    norm.num_batches_tracked.add_(1)
    return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


def by_batch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm [B, C, H, W] by the batch's own statistics, and these: mean and unbiased variance, [C] each."""
    like = torch.promote_types(x.dtype, torch.float32)
    mean, variance = (torch.zeros(x.shape[1], dtype=like, device=x.device) for _ in range(2))
    return F.batch_norm(x, mean, variance, weight, bias, True, 1.0, eps), mean, variance


def batch_norm_between(first: Any, second: Any, share: Share, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise as a batch norm between two would, in their mode; in training both follow what the batch says.

    What the running statistics are at this share moves towards the batch's by the momentum, as those of a budget's own
    norm would.

    Args:
        first, second: owners of running statistics, momentum and eps; `by_batch` of their class, where it has one,
            sees the batch of all processes (`bdsa.method.whole_batch`).
        x: [B, C, H, W]; weight, bias: [C], mixed already.
    """
    if not first.training:
        mean, variance = (mixed(getattr(first, n), getattr(second, n), share) for n in ("running_mean", "running_var"))
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, first.eps)
    y, mean, variance = getattr(first, "by_batch", by_batch)(x, weight, bias, first.eps)
    with torch.no_grad():
        momentum, _ = count_batch(first), count_batch(second)
        for name, now in (("running_mean", mean), ("running_var", variance)):
            kept = getattr(first, name), getattr(second, name)
            now = now.to(kept[0].dtype)
            missed = momentum * (now - mixed(*kept, share))
            for own, part in zip(kept, parts(share)):
                moved = own + missed * part
                # A variance that lies far from a line would be driven below zero at the other end of it.
                own.copy_(moved if name == "running_mean" else torch.maximum(moved, torch.minimum(own, now)))
    return y
