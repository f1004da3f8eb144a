"""In which type an inference computes: float32, bfloat16 where the processor multiplies it faster, or int8."""
from __future__ import annotations

import torch
from torch import Tensor

from bdsa.sparse import native

LIMIT = 0.02  # of the spread of float32's logits, that bfloat16's may be away with the same masks


def dtype_of(precision: str) -> torch.dtype:
    """What a setting of `AdaptiveNetwork.precision` means on this machine for maps, before a network is looked at."""
    if precision == "auto":
        return torch.bfloat16 if is_native() else torch.float32
    return torch.bfloat16 if precision in ("bfloat16", "int8") else torch.float32


def is_native() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, and the kernels use it."""
    return multiplies() and native.bfloat16_is_faster()


def multiplies() -> bool:
    """Whether the kernels use instructions of this processor that multiply bfloat16; not all of them are fast."""
    return not native.unavailable() and native.bfloat16_instructions() != "plain"


def distance(logits: Tensor, exact: Tensor) -> float:
    """The largest difference of logits [B, classes] from exact ones, over the spread of these."""
    apart, spread = (logits - exact).abs().max().item(), (exact.max() - exact.min()).item()
    return 0.0 if apart == 0 else apart / max(spread, 1e-12)
