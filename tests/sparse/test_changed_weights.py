"""Sparse execution never computes with weights that the network no longer has, however they changed."""
from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from changed_cases import assert_right, logits_of
from sparse_cases import BUDGETS, images_of, network_of
from timm.utils import ModelEmaV2
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import executor_of


def fused_steps(network: AdaptiveNetwork, images: Tensor) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        network(images, budget=BUDGETS[0]).square().sum().backward()
    optimizer.step()


def copied(network: AdaptiveNetwork, images: Tensor) -> None:
    for p in network.parameters():
        p.data.copy_(p.data * 1.3)


def one_number(network: AdaptiveNetwork, images: Tensor) -> None:
    network.fc.weight.data[3, 5] += 2


def set_data(network: AdaptiveNetwork, images: Tensor) -> None:
    for p in network.parameters():
        p.data = p.data * 1.3


def seen_otherwise(network: AdaptiveNetwork, images: Tensor) -> None:
    for block in network.adaptive_blocks():  # the same memory, the same pointer
        if block.conv2.weight.shape[0] == block.conv2.weight.shape[1]:
            block.conv2.weight.data = block.conv2.weight.data.transpose(0, 1)


def through_numpy(network: AdaptiveNetwork, images: Tensor) -> None:
    network.layer1[0].conv1.weight.detach().numpy()[:] *= 3


def averaged(network: AdaptiveNetwork, images: Tensor) -> None:
    average = copy.deepcopy(network)
    for p in average.parameters():
        p.data.mul_(1.2)
    for p, a in zip(network.parameters(), average.parameters()):
        p.data, a.data = a.data, p.data
    ModelEmaV2(network, decay=0.5).update(average)


def swapped(network: AdaptiveNetwork, images: Tensor) -> None:
    torch.utils.swap_tensors(network.conv1.weight, nn.Parameter(network.conv1.weight.detach() * 2))


def statistics(network: AdaptiveNetwork, images: Tensor) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data.add_(0.3)


def another_stem(network: AdaptiveNetwork, images: Tensor) -> None:
    old = network.conv1
    network.conv1 = nn.Conv2d(3, old.out_channels, 3, old.stride[0], 1, bias=True)


def another_layer(network: AdaptiveNetwork, images: Tensor) -> None:
    conv = network.layer2[0].conv2
    network.layer2[0].conv2 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False)


class Adapted(nn.Conv2d):
    """A layer of another class: what fine-tuning libraries put in a layer's place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * x.mean()


def a_layer_of_another_class(network: AdaptiveNetwork, images: Tensor) -> None:
    old = network.layer2[0].conv2
    network.layer2[0].conv2 = Adapted(old.in_channels, old.out_channels, 3, padding=1, bias=False)


def another_block(network: AdaptiveNetwork, images: Tensor) -> None:
    network.layer3[1 if len(network.layer3) > 1 else 0] = nn.Identity() if len(network.layer3) > 1 \
        else copy.deepcopy(network.layer3[0]).apply(lambda m: [p.data.mul_(1.3) for p in m.parameters(recurse=False)])


def another_parameter(network: AdaptiveNetwork, images: Tensor) -> None:
    conv = network.layer1[0].conv1
    conv.weight = nn.Parameter(conv.weight.detach().flip(0))
    conv.bias = nn.Parameter(torch.ones(conv.out_channels))


def another_mask_unit(network: AdaptiveNetwork, images: Tensor) -> None:
    for block in network.adaptive_blocks():
        unit = block.mask_units["b040"]
        unit.fc = nn.Linear(unit.fc.in_features, 1)


def pruned(network: AdaptiveNetwork, images: Tensor) -> None:
    prune.random_unstructured(network.layer1[0].conv2, "weight", amount=0.8)


def pruned_for_good(network: AdaptiveNetwork, images: Tensor) -> None:
    pruned(network, images)
    prune.remove(network.layer1[0].conv2, "weight")


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, x: Tensor) -> Tensor:
        return x


def parametrised(network: AdaptiveNetwork, images: Tensor) -> None:
    parametrize.register_parametrization(network.layer1[0].conv1, "weight", Doubled())


def assigned(network: AdaptiveNetwork, images: Tensor) -> None:
    network.load_state_dict({k: v * 0.8 if v.is_floating_point() else v for k, v in network.state_dict().items()},
                            assign=True)


def statistics_of_the_batch(network: AdaptiveNetwork, images: Tensor) -> None:
    network.layer2.train()


def deleted_block(network: AdaptiveNetwork, images: Tensor) -> None:
    network.layer3 = nn.Sequential(network.layer3[0], nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU()))


CHANGES = [fused_steps, copied, one_number, set_data, seen_otherwise, through_numpy, averaged, swapped, statistics,
           another_stem, another_layer, a_layer_of_another_class, another_block, another_parameter, another_mask_unit,
           pruned, pruned_for_good, parametrised, assigned, statistics_of_the_batch, deleted_block]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_way_of_changing_weights_is_seen(change: Callable[[AdaptiveNetwork, Tensor], None]) -> None:
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    assert_right(network, images)
    before = logits_of(network, images, "masked")
    change(network, images)
    network.train(False) if change is not statistics_of_the_batch else None
    assert_right(network, images, before)


@pytest.mark.parametrize("name", [pytest.param("resnet26d", marks=pytest.mark.slow), "convnext_atto",
                                  "convnextv2_atto"])
def test_other_families_see_it_too(name: str) -> None:
    network, images = network_of(name), images_of((1, 40, 40))
    for change in (lambda: None, lambda: copied(network, images), lambda: set_data(network, images)):
        change()
        assert_right(network, images)
    last = network.adaptive_blocks()[-1]
    if name.startswith("convnext"):
        last.mlp.fc1.weight.data.mul_(2)
        assert_right(network, images)
        last.conv_dw = nn.Conv2d(last.conv_dw.in_channels, last.conv_dw.in_channels, 7, padding=3, groups=1)
    else:
        last.conv3 = Adapted(last.conv3.in_channels, last.conv3.out_channels, 1)
    assert_right(network, images)


def test_functional_calls_compute_with_their_tensors() -> None:
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    own = logits_of(network, images, "masked")
    other = {k: v.detach() * 1.2 for k, v in network.named_parameters()}
    results = {}
    for network.execution in ("masked", "sparse"):
        with torch.inference_mode():
            found = torch.func.functional_call(network, other, (images,), {"budget": BUDGETS[0]})
            stacked = {k: torch.stack([v, v * 1.1]) for k, v in other.items()}
            many = torch.func.vmap(lambda p: torch.func.functional_call(network, p, (images,)))(stacked)
        results[network.execution] = found, many
    for expected, found in zip(results["masked"], results["sparse"]):
        assert torch.allclose(expected, found, atol=1e-4 * float(expected.max() - expected.min()))
    assert torch.allclose(own, logits_of(network, images, "sparse"), atol=1e-4 * float(own.max() - own.min()))


def test_weights_of_another_type_say_what_masked_execution_says() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    assert_right(network, images)
    network.half()
    for execution in ("masked", "sparse"):
        with pytest.raises(RuntimeError, match="type"):
            logits_of(network, images, execution)
    network.double()
    expected = logits_of(network, images.double(), "masked")
    assert torch.equal(expected, logits_of(network, images.double(), "sparse"))
    network.float()
    assert_right(network, images)


def test_weights_that_are_not_watched_are_announced() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.watch_weights = False
    assert_right(network, images)
    with torch.no_grad():
        network.conv1.weight.mul_(2)  # seen all the same
    assert_right(network, images)
    set_data(network, images)
    assert_right(network, images)
    copied(network, images)
    network.weights_changed()
    assert_right(network, images)


def test_weights_that_stay_are_packed_once() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    assert_right(network, images)
    made = executor_of(network, "b040")
    network.load_state_dict(copy.deepcopy(network.state_dict()))
    assert_right(network, images)
    assert executor_of(network, "b040") is made
