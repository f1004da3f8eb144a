"""Mask unit and its binary decision: which positions of a residual block run (docs/method.md, section 2)."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdsa.method.between import Share, batch_norm_between, mixed

MASK_NORMS = ("none", "batch")
MASK_STARTS = ("random", "activity")


class MaskUnit(nn.Module):
    """Score every output position of a block from the block's input: local evidence plus context.

        logits = conv3x3(x; C -> 1, stride s) + linear(global_avg_pool(x); C -> 1)

    Args:
        channels: channels C of the block's input.
        stride: stride s of the block, so that the logits have the block's output resolution.
        norm: "none", or "batch": the logits are normalised over the batch and get a bias, but no scale
            of their own. Their spread stays what threshold and temperature are made for; where it was
            learned it shrank until a whole map crossed the threshold at once.
        start: "random", or "activity": the logits are the mean of the input around a position, so that a
            pretrained network's masks begin where its features are strong, in connected pieces.
    """

    def __init__(self, channels: int, stride: int = 1, norm: str = "none", start: str = "random") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, kernel_size=3, stride=stride, padding=1, bias=True)
        self.fc = nn.Linear(channels, 1)
        if start == "activity":
            assert self.conv.bias is not None
            nn.init.constant_(self.conv.weight, 1 / (9 * channels))
            for rest in (self.conv.bias, self.fc.weight, self.fc.bias):
                nn.init.zeros_(rest)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.Identity()
        if norm == "batch":
            self.norm = nn.BatchNorm2d(1)
            self.norm.weight.requires_grad_(False)  # one, for good

    def forward(self, x: Tensor, towards: MaskUnit | None = None, share: Share = 0.0) -> Tensor:
        """x: [B, C, H, W] -> logits [B, 1, ceil(H/s), ceil(W/s)], always float32.

        With another unit, as the one at a share of the way to it would (`bdsa.method.between`).
        """
        # A sum, because the gradient of a mean is written out at the size of x.
        pooled = x.sum(dim=(2, 3), dtype=torch.float32) / (x.shape[2] * x.shape[3])
        pooled = pooled.to(x.dtype)
        if towards is None:
            local, context = self.conv(x), self.fc(pooled)  # context: [B, 1]
        else:
            local = F.conv2d(x, *_between(self.conv, towards.conv, share), self.conv.stride, self.conv.padding)
            context = F.linear(pooled, *_between(self.fc, towards.fc, share))
        logits = local.float() + context.float()[:, :, None, None]
        if isinstance(self.norm, nn.Identity):
            return logits
        logits = logits.to(self.norm.weight.dtype)
        if towards is None:
            return self.norm(logits).float()
        weight, bias = _between(self.norm, towards.norm, share)
        return batch_norm_between(self.norm, towards.norm, share, logits, weight, bias).float()

    def shift(self, offset: float | Tensor) -> None:
        """Add `offset` to all logits, for good: the threshold moves the other way."""
        with torch.no_grad():
            (self.fc if isinstance(self.norm, nn.Identity) else self.norm).bias.add_(offset)

    def macs(self, height: int, width: int) -> int:
        """MACs of this unit for one image whose mask is height x width."""
        return self.conv.in_channels * (9 * height * width + 1)


def _between(first: Any, second: Any, share: Share) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer at a share of the way to another."""
    return mixed(first.weight, second.weight, share), mixed(first.bias, second.bias, share)


def gumbel_difference(like: Tensor, shard: tuple[int, int] = (0, 1)) -> Tensor:
    """The difference of two independent Gumbel(0, 1) noises, in float32, of the shape of `like`.

    That difference is a standard logistic variable, so one uniform draw makes it. The draw is kept
    away from 0 and 1 by float32's epsilon: in half precision the noise would become infinite.

    Args:
        like: [B, ...].
        shard: (r, n) where `like` is the r-th of n equal parts of a batch: the whole batch's noise is
            drawn and its rows taken, so that generators in one state give the parts what one process draws.
    """
    eps = torch.finfo(torch.float32).eps
    (index, count), rows = shard, like.shape[0]
    u = torch.rand((rows * count, *like.shape[1:]), device=like.device, dtype=torch.float32).clamp_(eps, 1 - eps)
    return torch.logit(u[index * rows:(index + 1) * rows])


def straight_through(logits: Tensor, temperature: float) -> Tensor:
    """Hard decision forward, gradient of sigmoid(logits / temperature) backward.

    Args:
        logits: [B, 1, H, W] float32, with noise already added where there is any.
        temperature: tau > 0; without a gradient it has no effect.

    Returns:
        [B, 1, H, W] float32 of exact zeros and ones: one where logits >= 0.
    """
    hard = (logits >= 0).float()
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return hard
    soft = torch.sigmoid(logits / temperature)
    return hard + (soft - soft.detach())  # the bracket is exactly zero
