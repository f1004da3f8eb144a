"""Hold a budget while training (docs/method.md, section 8): move the thresholds against what the last batch ran.

The budget loss asks for an average and competes with the task, which always wants more. An integral
controller meets the budget at once and leaves the gradients to rank the positions.
"""
from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from bdsa.method.masks import MaskUnit


def steer(units: Iterable[MaskUnit], fraction: Tensor, target: float, gain: float) -> None:
    """Add gain * (target - fraction) to the logits of a budget's mask units.

    Args:
        units: the mask units of one budget, of all blocks.
        fraction: scalar, the batch's mean conditional fraction; it stays on its device.
        target: the fraction that is wanted now.
        gain: logits per unit of fraction. The larger, the fewer batches a miss lasts; a gain that moves
            the logits by more than their own spread switches whole maps on and off.
    """
    offset = gain * (target - fraction.detach().float())
    for unit in units:
        unit.shift(offset)
