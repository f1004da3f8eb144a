"""An inference that was recorded, and is played again for other images of the same size."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bdsa.method.exact import ExactBudget
from bdsa.sparse.given import check_given, take
from bdsa.sparse.recording import Recording


class NotFinite(Exception):
    """An image holds what is infinite or not a number: masked execution carries it to what is not computed here."""


@dataclass
class Inference:
    """A recording with what it begins and ends in: rooms for given masks, and logits like its own."""
    recording: Recording
    masks: list[Tensor]
    logits: Tensor

    def play(self, x: Tensor, given: Sequence[Tensor] | None, offsets: Sequence[float], exact: ExactBudget | None
             ) -> Tensor:
        """Logits [B, classes], of their own, of images x [B, C, H, W].

        Raises:
            NotFinite: see there.
        """
        if given is not None:
            check_given(given, self.masks)
            for room, mask in zip(self.masks, given):
                take(mask, room)
        self.recording.decide_at(offsets, exact)
        logits = torch.empty_like(self.logits)
        play(self.recording, x, logits)
        return logits


def play(recording: Recording, x: Tensor, out: Tensor | None = None) -> None:
    """Repeat a recording for images x [B, C, H, W]; the last call's results go to `out`, or where they went.

    Raises:
        NotFinite: see there.
    """
    if recording.play(x.permute(0, 2, 3, 1), out):
        raise NotFinite
