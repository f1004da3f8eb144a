"""Where the layer before a 3x3 convolution must be computed: the dilation D(m) of a block's mask.

Dilation works on logits, by max pooling, before the straight-through decision. A dilated position
then carries the gradient of the most certain position that needs it, so the cost of the first layer
shapes the masks too.
"""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dilate(logits: Tensor, reach: int = 1) -> Tensor:
    """What a 3x3 convolution reads. logits: [B, 1, H, W] -> [B, 1, H, W], the largest logit in each 3x3 window.

    Args:
        reach: the dilation of the convolution: its taps, and those of the window, lie so many positions apart.
    """
    if reach == 1:
        return F.max_pool2d(logits, kernel_size=3, stride=1, padding=1)
    # Padded by hand: max_pool2d takes no padding of more than half its kernel.
    return F.max_pool2d(F.pad(logits, (reach,) * 4, value=float("-inf")), kernel_size=3, stride=1, dilation=reach)


def dilate_to_input(logits: Tensor, stride: int, size: tuple[int, int], reach: int = 1) -> Tensor:
    """Dilation at the input resolution of a block with a strided 3x3 convolution (bottleneck).

    Args:
        logits: [B, 1, h, w] at the block's output resolution.
        stride: stride s of the 3x3 convolution.
        size: (H, W) of the block's input, with h = ceil(H/s) and w = ceil(W/s).
        reach: the dilation of the 3x3 convolution.

    Returns:
        [B, 1, H, W]: the logits placed on the stride grid, then dilated 3x3.
    """
    if stride == 1:
        return dilate(logits, reach)
    grid = logits.new_full((logits.shape[0], 1, *size), float("-inf"))
    grid[:, :, ::stride, ::stride] = logits
    return dilate(grid, reach)
