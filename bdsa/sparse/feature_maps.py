"""Feature maps of a network in sparse execution, recorded and played again as its logits are."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bdsa.method.exact import ExactBudget
from bdsa.models.usage import BlockUsage
from bdsa.sparse.executor import Executor
from bdsa.sparse.inference import play
from bdsa.sparse.recording import recorded


def feature_maps(executor: Executor, x: Tensor, given: Sequence[Tensor] | None, count: bool, offset: float = 0.0,
                 exact: ExactBudget | None = None) -> tuple[list[Tensor], list[BlockUsage]]:
    """The maps at the executor's `marks`, [B, C, h, w] each in memory of its own, and the blocks' usage.

    Args:
        x, given, count, offset, exact: see `Executor.__call__`.
    """
    found: list[Tensor] = []
    if count or given is not None or torch.autograd._profiler_enabled():
        used = executor.run(executor.take_in(x), given, count, None, found, offset, exact)[1]
        return _taken(found), used
    key = ("maps", x.shape, x.device, torch.get_num_threads(), executor.ways, exact and exact.expected)
    if (kept := executor.workspace.recordings.find(key)) is not None:
        recording, found = kept
        recording.decide_at(executor.offsets(offset), exact)
        play(recording, x)
        executor.played = True
    else:
        with recorded() as recording:
            executor.run(executor.take_in(x), None, False, None, found, offset, exact)
        if recording.complete:
            recording.close(x, None)
            executor.workspace.recordings.keep(key, (recording, found))
    return _taken(found), []


def _taken(rooms: list[Tensor]) -> list[Tensor]:
    """Maps [B, h, w, C] that the next call overwrites as float32 [B, C, h, w] of their own."""
    return [room.permute(0, 3, 1, 2).to(torch.float32, copy=True) for room in rooms]
