"""Layers of a batch that processes share: what stands for them is drawn for all, or refused."""
from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from bdsa.errors import UserError
from bdsa.method import whole_batch
from bdsa.method.whole_batch import use_whole_batch


@pytest.mark.parametrize("depth", [DropPath(0.4), StochasticDepth(0.4, "row"), StochasticDepth(0.4, "batch")])
def test_two_processes_drop_what_one_would(depth: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = nn.Sequential(depth).train(), torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    expected = network(x)
    use_whole_batch(network)
    monkeypatch.setattr(whole_batch.dist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(whole_batch.dist, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(1)
        assert torch.equal(network(x[4 * rank:4 * rank + 4]), expected[4 * rank:4 * rank + 4])


def test_a_batch_norm_without_a_form_for_several_processes_is_refused() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(UserError, match=r"BatchNorm1d would see .*trainer.sync_batch_norm=false"):
        use_whole_batch(network)
    use_whole_batch(network, norms=False)
