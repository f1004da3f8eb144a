"""Layers that depend on the whole batch, for a batch that several processes share in equal parts.

Batch norms normalise by, and keep, the statistics of all parts; stochastic depth draws for all images
and takes its rows. torch's SyncBatchNorm does the former on accelerators alone. The classes are changed
in place, as in `bdsa.models.surgery`, so weights keep their names.
"""
from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdsa.method.norms import BatchStatistics, BudgetBatchNorm2d


class _Normalise(torch.autograd.Function):
    """Batch norm by the statistics of all processes' images; also returns these statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        own = torch.stack(torch.var_mean(exact, dim=(0, 2, 3), correction=0))   # [2, C]
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        variances, means = torch.stack(parts).unbind(dim=1)                     # [world, C] each
        mean = means.mean(dim=0)
        # Of centred parts, not E[x^2] - E[x]^2, which cancels where the mean is large.
        variance = (variances + (means - mean).square()).mean(dim=0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        exact = grad.to(mean.dtype)
        normal = (x.to(mean.dtype) - mean[:, None, None]) * scale[:, None, None]
        own = torch.stack([exact.sum(dim=(0, 2, 3)), (exact * normal).sum(dim=(0, 2, 3))])  # [2, C]
        whole = own.clone()
        dist.all_reduce(whole)
        shift, slope = (whole / (x.numel() // x.shape[1] * dist.get_world_size()))[:, :, None, None]
        grad_x = (exact - shift - normal * slope) * (weight * scale)[:, None, None]
        return grad_x.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None


@torch.compiler.disable  # a collective inside an autograd function: the compiler leaves it as it is
def normalise(norm: nn.BatchNorm2d | BatchStatistics, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise a part of a batch in training, and update the running statistics as torch does.

    Args:
        norm: owner of momentum, eps and the running statistics.
        x: [B, C, H, W], of one shape in all processes.
        weight, bias: [C].
    """
    y, mean, variance = _Normalise.apply(x, weight, bias, norm.eps)
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        count = x.numel() // x.shape[1] * dist.get_world_size()
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_((variance * (count / max(count - 1, 1))).to(norm.running_var.dtype), momentum)
    return y


class WholeBatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d over the images of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self, x, self.weight, self.bias) if self.training else super().forward(x)


class WholeBudgetBatchNorm2d(BudgetBatchNorm2d, WholeBatchNorm2d):
    """The same with statistics per budget."""


class WholeBatchStatistics(BatchStatistics):
    """Running statistics of one budget, over the images of all processes."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalise(self, x, weight, bias) if self.training else super().forward(x, weight, bias)


class WholeDropPath(DropPath):
    """Stochastic depth: drawn for the images of all processes, so that no two ranks drop alike."""

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        rank, world, rows = dist.get_rank(), dist.get_world_size(), len(x)
        kept = x.new_empty((rows * world,) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.drop_prob)
        if self.scale_by_keep and self.drop_prob < 1.0:
            kept.div_(1 - self.drop_prob)
        return x * kept[rank * rows:(rank + 1) * rows]


NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: WholeBatchNorm2d,
    BudgetBatchNorm2d: WholeBudgetBatchNorm2d,
    BatchStatistics: WholeBatchStatistics,
}


def use_whole_batch(network: nn.Module, norms: bool = True) -> None:
    """Make the layers of a network see the batch of all processes.

    Args:
        network: changed in place; its weights keep their names.
        norms: also the batch norms; without it they see this process's images only.

    Raises:
        TypeError: for a batch norm of another type.
    """
    for module in network.modules():
        if type(module) is DropPath:
            module.__class__ = WholeDropPath
        elif norms and type(module) in NORMS:
            module.__class__ = NORMS[type(module)]
        elif norms and isinstance(module, _BatchNorm) and type(module) not in NORMS.values():
            raise TypeError(f"no form of {type(module).__name__} for several processes; "
                            f"supported: {', '.join(t.__name__ for t in NORMS)}")


def use_own_part(network: nn.Module) -> None:
    """Make the batch norms see this process's images only again, such as to measure statistics."""
    back = {whole: own for own, whole in NORMS.items()}
    for module in network.modules():
        module.__class__ = back.get(type(module), type(module))
