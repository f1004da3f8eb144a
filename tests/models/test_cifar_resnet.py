"""The CIFAR ResNets against He et al. 2015, section 4.2, written out: others' weights mean the same here."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sparse_cases import images_of, network_of
from torch import Tensor


def written_out(state: dict[str, Tensor], x: Tensor, blocks: int, shortcut: str) -> Tensor:
    """Logits of a CIFAR ResNet with `blocks` basic blocks a stage, from its weights alone."""
    def normalised(name: str, x: Tensor) -> Tensor:
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    x = F.relu(normalised("bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    for stage in range(3):
        for number in range(blocks):
            place, stride = f"layer{stage + 1}.{number}", 2 if stage and not number else 1
            y = F.conv2d(x, state[f"{place}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(normalised(f"{place}.bn1", y))
            y = normalised(f"{place}.bn2", F.conv2d(y, state[f"{place}.conv2.weight"], padding=1))
            if stride == 2 and shortcut == "B":
                x = normalised(f"{place}.downsample.1", F.conv2d(x, state[f"{place}.downsample.0.weight"], stride=2))
            elif stride == 2:  # every second position, new channels of zeros on both sides
                zeros = torch.zeros_like(x[:, ::2, ::2, ::2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("name, blocks, shortcut", [("cifar_resnet8", 1, "A"), ("cifar_resnet14", 2, "B"),
                                                    ("cifar_resnet20", 3, "A")])
def test_its_dense_network_is_the_papers(name, blocks, shortcut):
    network, images = network_of(name, shortcut=shortcut), images_of((2, 32, 32))
    expected = written_out(network.state_dict(), images, blocks, shortcut)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
