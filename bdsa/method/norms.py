"""Normalisation per budget (docs/method.md, section 4), inside the pretrained layer's own slot and names.

The layer keeps its class's behaviour and its parameters: calling it without a budget is the dense
network. Each budget has batch statistics of its own, started from the layer's; its weight and bias
are its own ("separate", started from the layer's) or the layer's ("shared").
"""
from __future__ import annotations

import copy
from typing import NamedTuple

import torch.nn.functional as F
from timm.layers import LayerNorm, LayerNorm2d
from torch import Tensor, nn

from bdsa.method.between import Share, batch_norm_between, count_batch, mixed


class BatchStatistics(nn.Module):
    """Running mean and variance of one budget, for a batch norm whose weight and bias are shared."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.momentum, self.eps = norm.momentum, norm.eps
        self.train(norm.training)  # a network adapted in eval mode must not normalise by the batch
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name).clone())

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x: [B, C, H, W] -> the same shape, normalised with this budget's statistics."""
        momentum = count_batch(self) if self.training else 0.0
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, self.training, momentum, self.eps)


class Blend(NamedTuple):
    """Norms between those of two budgets: (1 - share) of the first one's output and share of the second's.

    With `whole` the budget that is asked for is itself between the two, as continuous budgets are trained: the same of
    the mask units' weights and of the running statistics, which in training follow the batch.
    """
    first: str
    second: str
    share: Share
    whole: bool = False


class BudgetNorm(nn.Module):
    """A norm layer that can be called with the name of a budget; without one it is the dense layer."""

    per_budget: nn.ModuleDict
    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: Tensor, budget: str | Blend | None = None) -> Tensor:
        if isinstance(budget, Blend):
            if budget.whole and isinstance(self, nn.BatchNorm2d):
                first, second = (self.per_budget[name] for name in budget[:2])
                owners = (self, self) if isinstance(first, BatchStatistics) else (first, second)
                weight, bias = (mixed(getattr(owners[0], n), getattr(owners[1], n), budget.share)
                                for n in ("weight", "bias"))
                return batch_norm_between(first, second, budget.share, x, weight, bias)
            return mixed(self(x, budget.first), self(x, budget.second), budget.share)
        if budget is None or budget not in self.per_budget:
            return super().forward(x)
        norm = self.per_budget[budget]
        if isinstance(norm, BatchStatistics):
            return norm(x, self.weight, self.bias)
        return norm(x)


class BudgetBatchNorm2d(BudgetNorm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d with statistics per budget."""


class BudgetLayerNorm(BudgetNorm, LayerNorm):
    """timm's channels-last LayerNorm, one per budget."""


class BudgetPlainLayerNorm(BudgetNorm, nn.LayerNorm):
    """torch.nn.LayerNorm, one per budget."""


class BudgetLayerNorm2d(BudgetNorm, LayerNorm2d):
    """timm's channels-first LayerNorm, one per budget."""


NORMS: dict[type[nn.Module], type[BudgetNorm]] = {
    nn.BatchNorm2d: BudgetBatchNorm2d,
    LayerNorm: BudgetLayerNorm,
    nn.LayerNorm: BudgetPlainLayerNorm,
    LayerNorm2d: BudgetLayerNorm2d,
}
AFFINE = ("separate", "shared")


def add_budget_norms(norm: nn.Module, names: list[str], affine: str) -> None:
    """Turn a norm layer, in place, into its per-budget form (exact type match).

    Args:
        norm: a layer whose type is in `NORMS`.
        names: names of the budgets below 1.0.
        affine: "separate" or "shared" weight and bias.

    Raises:
        TypeError: for a layer of any other type.
    """
    if type(norm) not in NORMS:
        supported = ", ".join(t.__name__ for t in NORMS)
        raise TypeError(f"no per-budget form of norm layer {type(norm).__name__}; supported: {supported}")
    per_budget = nn.ModuleDict()
    for name in names:
        if affine == "separate":
            per_budget[name] = copy.deepcopy(norm)
        elif isinstance(norm, nn.BatchNorm2d):
            per_budget[name] = BatchStatistics(norm)
    norm.__class__ = NORMS[type(norm)]
    norm.per_budget = per_budget.train(norm.training)
