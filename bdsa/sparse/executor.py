"""Run a whole network sparsely at a budget: dense steps and block plans, made at first use and kept."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.usage import BlockUsage, Request
from bdsa.sparse import native
from bdsa.sparse.dense import Step, dense_steps
from bdsa.sparse.plans import BlockPlan, plan_block


@dataclass
class Executor:
    """A network at one budget, in evaluation mode.

    Attributes:
        steps: dense steps and block plans, from the image to the last map.
        rows: of the last call: for each block the rows computed at D(m) and at m, int64 [2], or None where the
            block ran masked.
    """
    steps: list[Step | BlockPlan]
    rows: list[Tensor | None]

    @classmethod
    def of(cls, trunk: Sequence[nn.Module], budget: str) -> Executor:
        """Fold and pack a network's trunk for a budget, by name."""
        width, steps, waiting = native.panel(), [], []
        for module in trunk:
            if isinstance(module, AdaptiveBlock):
                steps += [*dense_steps(waiting, width), plan_block(module, budget, width)]
                waiting = []
            else:
                waiting.append(module)
        return cls([*steps, *dense_steps(waiting, width)], [])

    def __call__(self, x: Tensor, request: Request, given: Sequence[Tensor] | None,
                 count: bool) -> tuple[Tensor, list[BlockUsage]]:
        """Compute the last feature map.

        Args:
            x: [B, 3, H, W], left as it is.
            request: the budget; what concerns training is ignored.
            given: masks in place of the units' decisions, bool [B, 1, h, w] a block.
            count: whether to count what was used.

        Returns:
            [B, C, h, w] in channels-last memory, and the blocks' usage, empty unless `count`.
        """
        owned = x.permute(0, 2, 3, 1).contiguous()
        if owned.data_ptr() == x.data_ptr() and not self._starts_dense:
            owned = owned.clone()  # blocks write in place
        x, masks, used, self.rows = owned, iter(given or ()), [], []
        for step in self.steps:
            if not isinstance(step, BlockPlan):
                x = step(x)
                continue
            logits = step.scores(x)                                        # [B, h, w]
            mask = logits >= 0
            if given is not None:
                mask = _matching(next(masks), logits)[:, 0].contiguous()
            if count:
                used.append(_usage(step, request, x, logits, mask, given is not None))
            x, rows = step.run(x, mask)
            self.rows.append(rows)
        return x.permute(0, 3, 1, 2), used

    def masked_because(self) -> set[str]:
        """What blocks have that the kernels do not know."""
        return {s.masked_because for s in self.steps if isinstance(s, BlockPlan) and s.masked_because}

    @property
    def _starts_dense(self) -> bool:
        return not isinstance(self.steps[0], BlockPlan)


def _matching(given: Tensor, logits: Tensor) -> Tensor:
    if given.shape != (len(logits), 1, *logits.shape[1:]):
        raise ValueError(f"a given mask is {list(given.shape)} and the block decides "
                         f"{[len(logits), 1, *logits.shape[1:]]}")
    return given.bool()


def _usage(plan: BlockPlan, request: Request, x: Tensor, logits: Tensor, mask: Tensor, given: bool) -> BlockUsage:
    """The same figures as masked execution gives for this decision."""
    mask, logits = mask[:, None], logits[:, None]                          # [B, 1, h, w]
    decided_by = mask.float() - 0.5 if given else logits
    cost, total = plan.block.cost(mask.float(), decided_by, x.permute(0, 3, 1, 2), request)
    return BlockUsage(mask, cost, total, plan.block.mask_units[request.budget].macs(*mask.shape[2:]), logits)


def refusal(x: Tensor) -> str | None:
    """Why an input cannot run sparsely, or None."""
    if x.dtype != torch.float32:
        return f"the sparse kernels compute in float32, not {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on"
    return None
