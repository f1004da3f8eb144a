"""What the tests of weights that change look at: logits, and whether sparse ones are right."""
from __future__ import annotations

import torch
from sparse_cases import BUDGETS
from torch import Tensor

from bdsa.models.network import AdaptiveNetwork


def logits_of(network: AdaptiveNetwork, images: Tensor, execution: str, budget: float = BUDGETS[0]) -> Tensor:
    with torch.inference_mode():
        network.execution = execution
        return network(images, budget=budget)


def assert_right(network: AdaptiveNetwork, images: Tensor, before: Tensor | None = None) -> None:
    """Sparse logits are the masked ones, at every budget, and others than `before`."""
    for budget in (*BUDGETS, 1.0):
        expected = logits_of(network, images, "masked", budget)
        for execution in ("sparse", "auto", "sparse"):
            found = logits_of(network, images, execution, budget)
            assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min()).clamp(min=1e-3)
    assert before is None or not torch.equal(before, logits_of(network, images, "masked"))
