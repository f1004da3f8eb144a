"""Recorded inferences of several images, which threads take one by one through the early layers."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, images_of, network_of

from bdsa.sparse import native
from bdsa.sparse.execution import executor_of

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet26d", "convnextv2_atto", "convnext_pico", "resnext50_32x4d",
                                  "cifar_resnet14 submanifold", "resnet26 submanifold"])
def test_each_image_gets_what_the_batch_together_gives(name: str, precision: str) -> None:
    network = network_of(name, **NETWORKS[name])
    network.execution, network.precision = "sparse", precision
    with torch.inference_mode():
        for batch in (2, 9):
            images, others = images_of((batch, 40, 56)), torch.randn(batch, 3, 40, 56)
            together, used = network(images, budget=BUDGETS[0], return_usage=True)
            rows = [each.clone() for each in executor_of(network, "b040").rows]
            for _ in range(12):  # the first is recorded; threads overlap differently each time
                assert torch.equal(network(images, budget=BUDGETS[0]), together)
                network(others, budget=BUDGETS[0])  # leaves nothing behind
            exact = network(images, budget=BUDGETS[0], return_usage=True, per_image=True)[0]
            for _ in range(6):
                assert torch.equal(network(images, budget=BUDGETS[0], per_image=True), exact)
            network(images, budget=BUDGETS[0], masks=used.masks)
            assert torch.equal(network(images, budget=BUDGETS[0], masks=used.masks), together)
            assert all(torch.equal(a, b) for a, b in zip(executor_of(network, "b040").rows, rows, strict=True))


def test_early_layers_go_image_by_image_and_late_ones_together() -> None:
    network, images = network_of("resnet26"), images_of((4, 64, 64))
    network.execution = "sparse"
    with torch.inference_mode():
        network(images, budget=BUDGETS[0])
        network(images, budget=BUDGETS[0])
    (kept,) = executor_of(network, "b040").workspace.recordings.values()
    by_image = {name.__name__: call.images for (name, *_), call in zip(kept.recording.calls, kept.recording._array)}
    assert by_image["bdsa_convolution_pool"] == 4 and kept.recording._array[0].images == 4
    blocks = [c.images for (f, *_), c in zip(kept.recording.calls, kept.recording._array) if "residual" in f.__name__]
    assert blocks[0] == 4 and blocks[-1] == 0  # the last one's weights, 18 MB, are read once for all images
