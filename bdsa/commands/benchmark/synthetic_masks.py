"""Masks of a chosen cost, for measurements without a trained network: smooth blobs, like those around objects.

A block's mask is where a blurred noise field is highest. The number of positions is chosen per image so that the
block's conditional MACs, dilation included, are the budget's share of the dense block's: what a budget asks for.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdsa.budgets import Budget
from bdsa.data.seeds import mixed_seed
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.factory import input_channels
from bdsa.models.modes import evaluating
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.usage import Request


@dataclass(frozen=True)
class BlockShape:
    """A block and the sizes (height, width) of its input and its output."""
    block: AdaptiveBlock
    input: tuple[int, int]
    output: tuple[int, int]


def block_shapes(network: AdaptiveNetwork, size: tuple[int, int]) -> list[BlockShape]:
    """The sizes of every adaptive block's maps for images of (height, width), from one dense pass."""
    seen: list[BlockShape] = []
    hooks = [b.register_forward_hook(lambda block, x, y: seen.append(
        BlockShape(block, tuple(x[0].shape[2:]), tuple(y.shape[2:])))) for b in network.adaptive_blocks()]
    execution, precision = network.execution, network.precision
    try:
        network.execution, network.precision = "masked", "float32"  # which calls the blocks
        like = next(network.parameters())
        with torch.inference_mode(), evaluating(network):
            network(like.new_zeros(1, input_channels(network), *size))
    finally:
        network.execution, network.precision = execution, precision
        for hook in hooks:
            hook.remove()
    return seen


def synthetic_masks(shapes: Iterable[BlockShape], budget: float, images: int, seed: int = 0,
                    blob: float = 0.15) -> list[Tensor]:
    """Masks whose cost in every block and image is the budget's share, as closely as a position allows.

    The fields do not depend on the budget: the mask of a smaller budget lies within that of a larger one.

    Args:
        shapes: the blocks, from `block_shapes`.
        budget: the wanted conditional fraction, in (0, 1).
        images: B.
        seed: of the fields.
        blob: width of the blobs (the blur's standard deviation) as a fraction of the map's shorter side.

    Returns:
        A bool [B, 1, h, w] a block.
    """
    return [_mask(shape, _field(images, shape.output, mixed_seed("blobs", seed, number), blob), budget)
            for number, shape in enumerate(shapes)]


def _field(images: int, size: tuple[int, int], seed: int, blob: float) -> Tensor:
    """Blurred noise, [B, 1, h, w] float32; every image's is drawn by itself, so B changes none of them."""
    sigma = blob * min(size)
    reach = max(1, round(3 * sigma))
    wide = (size[0] + 2 * reach, size[1] + 2 * reach)  # noise beyond the border, so that the border is as any place
    noise = torch.stack([torch.randn(1, *wide, generator=torch.Generator().manual_seed(mixed_seed(seed, i)))
                         for i in range(images)])
    steps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (steps / max(sigma, 1e-3)) ** 2)
    kernel /= kernel.sum()
    return F.conv2d(F.conv2d(noise, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))


def _mask(shape: BlockShape, field: Tensor, budget: float) -> Tensor:
    """The highest positions of a field, as many as bring the block's cost nearest to the budget; [B, 1, h, w]."""
    images, positions = len(field), field[0].numel()
    highest = field.flatten(1).sort(dim=1, descending=True).values                 # [B, h * w]
    ends = torch.cat([highest, highest[:, -1:] - 1], dim=1)                        # [B, h * w + 1]
    x = field.new_empty(1).expand(images, 1, *shape.input)                         # asked for its size alone
    request = Request(Budget(budget).name)

    def fraction(count: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the dense block's cost with `count` [B] active positions, [B], and the masks."""
        between = torch.stack([ends[range(images), count], ends[range(images), (count - 1).clamp(min=0)]]).mean(dim=0)
        between = torch.where(count > 0, between, highest[:, 0] + 1)
        logits = field - between[:, None, None, None]
        hard = (logits >= 0).float()
        cost, total = shape.block.cost(hard, logits, x, request)
        return cost / total, hard.bool()

    low, high = torch.zeros(images, dtype=torch.long), torch.full((images,), positions)  # cost rises with the count
    while (high - low).max() > 1:
        middle = (low + high) // 2
        enough = fraction(middle)[0] >= budget
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    (below, fewer), (above, more) = fraction(low), fraction(high)
    nearer = (budget - below).abs() <= (above - budget).abs()
    return torch.where(nearer[:, None, None, None], fewer, more)
