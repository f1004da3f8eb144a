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
from torchvision.ops import StochasticDepth

from bdsa.errors import UserError
from bdsa.method.between import count_batch
from bdsa.method.norms import BatchStatistics, BudgetBatchNorm2d

Three = tuple[Tensor, Tensor, Tensor]


@torch.library.custom_op("bdsa::normalise_whole", mutates_args=())
def _normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Three:
    """Batch norm by the statistics of all processes' images; also returns their mean and variance, [C] each.

    An operator of its own, which a compiler takes as it is: the collective in it breaks no graph.
    """
    own = _own_statistics(x)
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    return _normalised(x, weight, bias, eps, torch.stack(parts))


@_normalise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Three:
    return _normalised(x, weight, bias, eps, _own_statistics(x)[None])


def _own_statistics(x: Tensor) -> Tensor:
    """Variance and mean [2, C] of a process's images [B, C, H, W]."""
    return torch.stack(torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), dim=(0, 2, 3), correction=0))


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float, parts: Tensor) -> Three:
    """The same, of the statistics [parts, 2, C] of equal parts of a batch."""
    variances, means = parts.unbind(dim=1)
    mean = means.mean(dim=0)
    # Of centred parts, not E[x^2] - E[x]^2, which cancels where the mean is large.
    variance = (variances + (means - mean).square()).mean(dim=0)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance


@torch.library.custom_op("bdsa::normalise_whole_backward", mutates_args=())
def _normalise_backward(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, images: int) -> Three:
    """Gradients of x, weight and bias; images: of all processes."""
    own = _own_sums(grad, x, mean, scale)
    whole = own.clone()
    dist.all_reduce(whole)
    return _gradients(grad, x, weight, mean, scale, images, own, whole)


@_normalise_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, images: int) -> Three:
    own = _own_sums(grad, x, mean, scale)
    return _gradients(grad, x, weight, mean, scale, images, own, own.clone())


def _own_sums(grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Sums [2, C] over a process's images: of the gradient, and of it times the normalised value."""
    exact = grad.to(mean.dtype)
    normal = (x.to(mean.dtype) - mean[:, None, None]) * scale[:, None, None]
    return torch.stack([exact.sum(dim=(0, 2, 3)), (exact * normal).sum(dim=(0, 2, 3))])


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, images: int, own: Tensor,
               whole: Tensor) -> Three:
    exact = grad.to(mean.dtype)
    normal = (x.to(mean.dtype) - mean[:, None, None]) * scale[:, None, None]
    shift, slope = (whole / (images * x.shape[2] * x.shape[3]))[:, :, None, None]
    grad_x = (exact - shift - normal * slope) * (weight * scale)[:, None, None]
    return grad_x.to(x.dtype), own[1].to(weight.dtype, copy=True), own[0].to(weight.dtype, copy=True)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    x, weight, _, ctx.eps = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(x, weight, mean, variance)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
    x, weight, mean, variance = ctx.saved_tensors
    images = len(x) * dist.get_world_size()
    return *_normalise_backward(grad, x, weight, mean, (variance + ctx.eps).rsqrt(), images), None


_normalise.register_autograd(_backward, setup_context=_keep)


def normalise(norm: nn.BatchNorm2d | BatchStatistics, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise a part of a batch in training, and update the running statistics as torch does.

    Args:
        norm: owner of momentum, eps and the running statistics.
        x: [B, C, H, W], of one shape in all processes.
        weight, bias: [C].
    """
    y, mean, variance = by_whole_batch(x, weight, bias, norm.eps)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        momentum = count_batch(norm)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)
    return y


def by_whole_batch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Three:
    """`bdsa.method.between.by_batch`, by the statistics of all processes' images."""
    y, mean, variance = _normalise(x, weight, bias, eps)
    count = x.numel() // x.shape[1] * dist.get_world_size()
    return y, mean, variance * (count / max(count - 1, 1))


class WholeBatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d over the images of all processes."""

    by_batch = staticmethod(by_whole_batch)

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self, x, self.weight, self.bias) if self.training else super().forward(x)


class WholeBudgetBatchNorm2d(BudgetBatchNorm2d, WholeBatchNorm2d):
    """The same with statistics per budget."""


class WholeBatchStatistics(BatchStatistics):
    """Running statistics of one budget, over the images of all processes."""

    by_batch = staticmethod(by_whole_batch)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalise(self, x, weight, bias) if self.training else super().forward(x, weight, bias)


class WholeDropPath(DropPath):
    """Stochastic depth: drawn for the images of all processes, so that no two ranks drop alike."""

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        return x * _own_rows(x, self.drop_prob, self.scale_by_keep)


class WholeStochasticDepth(StochasticDepth):
    """torchvision's form of the same; where it drops whole batches, ranks drop alike as they are."""

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training or self.mode != "row":
            return super().forward(x)
        return x * _own_rows(x, self.p, scaled=True)


def _own_rows(x: Tensor, drop: float, scaled: bool) -> Tensor:
    """Which of this process's images [B, ...] are kept, [B, 1, ...], drawn for those of all processes."""
    rank, world, rows = dist.get_rank(), dist.get_world_size(), len(x)
    kept = x.new_empty((rows * world,) + (1,) * (x.ndim - 1)).bernoulli_(1 - drop)
    if scaled and drop < 1.0:
        kept.div_(1 - drop)
    return kept[rank * rows:(rank + 1) * rows]


DEPTHS: dict[type[nn.Module], type[nn.Module]] = {DropPath: WholeDropPath, StochasticDepth: WholeStochasticDepth}


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
        UserError: for a batch norm of another type.
    """
    for module in network.modules():
        if type(module) in DEPTHS:
            module.__class__ = DEPTHS[type(module)]
        elif norms and type(module) in NORMS:
            module.__class__ = NORMS[type(module)]
        elif norms and isinstance(module, _BatchNorm) and type(module) not in NORMS.values():
            raise UserError(f"a {type(module).__name__} would see the images of its process alone, and has no form for "
                            f"several: train in one, or with trainer.sync_batch_norm=false")


def use_own_part(network: nn.Module) -> None:
    """Make the batch norms see this process's images only again, such as to measure statistics."""
    back = {whole: own for own, whole in NORMS.items()}
    for module in network.modules():
        module.__class__ = back.get(type(module), type(module))
