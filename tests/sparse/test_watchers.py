"""Who looks at an inference sees it, and what is no number stays none, in every execution."""
from __future__ import annotations

import copy

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, images_of, network_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import native, operators, reference
from bdsa.sparse.packing import pack, rows_first

EXECUTIONS = ("masked", "sparse", "auto")


@pytest.fixture
def network() -> AdaptiveNetwork:
    return network_of("cifar_resnet8")


@pytest.fixture
def images() -> Tensor:
    return images_of((2, 32, 32))


@pytest.mark.parametrize("budget", [BUDGETS[0], 1.0])
def test_a_flop_counter_counts_the_same_at_every_call(network: AdaptiveNetwork, images: Tensor, budget: float) -> None:
    counted = set()
    for network.execution in EXECUTIONS:
        for _ in range(3):
            with torch.inference_mode():
                network(images, budget=budget)
                with FlopCounterMode(display=False) as counter:
                    network(images, budget=budget)
            counted.add(counter.get_total_flops())
    assert len(counted) == 1 and counted.pop() > 0


def test_modes_see_convolutions(network: AdaptiveNetwork, images: Tensor) -> None:
    seen: list[str] = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    network.execution = "sparse"
    for mode in (Dispatch, Function):
        for _ in range(3):
            seen.clear()
            with torch.no_grad(), mode():
                network(images, budget=BUDGETS[0])
            assert sum("conv" in name for name in seen) >= 7


@pytest.mark.parametrize("budget", [BUDGETS[0], 1.0])
@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18", "convnext_atto"])
def test_hooks_fire_in_every_execution(name: str, budget: float) -> None:
    network, images = network_of(name), images_of((1, 32, 32))
    block = network.adaptive_blocks()[1]
    stage = network.layer2 if name != "convnext_atto" else network.stages[1]
    inner = block.conv1 if name != "convnext_atto" else block.conv_dw
    outputs: list[Tensor] = []
    called: list[nn.Module] = []
    with torch.inference_mode():
        features = network.forward_features(images, budget=budget)
        for network.execution in EXECUTIONS:
            expected = network(images, budget=budget)
            for module in (block, stage, inner, network.trunk()[0]):
                outputs.clear()
                handle = module.register_forward_hook(lambda module, given, output: outputs.append(output))
                for count in (1, 2):
                    found = network(images, budget=budget)
                    assert len(outputs) == count and outputs[-1].dim() == 4
                    assert torch.allclose(found, expected, atol=1e-4 * float(expected.max() - expected.min()))
                handle.remove()
            handle = nn.modules.module.register_module_forward_pre_hook(lambda module, given: called.append(module))
            called.clear()
            try:
                network(images, budget=budget)
            finally:
                handle.remove()
            assert {block, stage, inner} <= set(called)
        last = network.trunk()[-1] if name != "convnext_atto" else network.stages
        outputs.clear()
        last.register_forward_hook(lambda module, given, output: outputs.append(output))
        network(images, budget=budget)
        assert torch.equal(outputs[0], features)


def test_hooks_change_what_they_change(network: AdaptiveNetwork, images: Tensor) -> None:
    network.layer2.register_forward_hook(lambda module, given, output: 2 * output)
    network.layer1[0].register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    with torch.inference_mode():
        logits = {}
        for network.execution in EXECUTIONS:
            logits[network.execution], usage = network(images, budget=BUDGETS[0], return_usage=True)
            assert len(usage.masks) == len(network.adaptive_blocks())
        assert torch.equal(logits["masked"], logits["sparse"]) and torch.equal(logits["masked"], logits["auto"])


def test_hooks_on_blocks_do_not_change_training(network: AdaptiveNetwork, images: Tensor) -> None:
    gradients = []
    for hooked in (False, True):
        if hooked:
            network.layer2[0].register_full_backward_hook(lambda *given: None)
        network.zero_grad()
        torch.manual_seed(0)
        logits, usage = network(images, budget=BUDGETS[0], return_usage=True, noise=True)
        (logits.square().mean() + usage.conditional_fraction.mean()).backward()
        gradients.append({k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][k], gradients[1][k]) for k in gradients[0])


def test_traced_and_compiled_networks_follow_image_and_weights(network: AdaptiveNetwork, images: Tensor) -> None:
    network.requires_grad_(False).execution = "sparse"
    with torch.no_grad():
        network(images, budget=BUDGETS[0])
        traced = torch.jit.trace(lambda x: network(x, budget=BUDGETS[0]), images, check_trace=False)
        compiled = torch.compile(network, backend="eager")
        for x in (images, images.flip(0) * 0.5):
            expected = network(x, budget=BUDGETS[0])
            network.execution = "masked"
            assert torch.allclose(traced(x), expected, atol=1e-3)
            network.execution = "sparse"
            for _ in range(2):
                assert torch.allclose(compiled(x, budget=BUDGETS[0]), expected, atol=1e-3)
            network.conv1.weight.data.mul_(1.1)
            assert torch.allclose(compiled(x, budget=BUDGETS[0]), network(x, budget=BUDGETS[0]), atol=1e-3)
            network.conv1.weight.data.div_(1.1)
        exported = torch.export.export(network, (images,), {"budget": BUDGETS[0]}, strict=False)
        found = exported.module()(images, budget=BUDGETS[0])
        assert torch.allclose(found, network(images, budget=BUDGETS[0]), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_that_is_not_finite_gives_what_masked_execution_gives(name: str, value: float) -> None:
    network, images = network_of(name, **NETWORKS[name]), images_of((2, 32, 32))
    for batch in (images, images.clone(), images.clone().index_fill_(0, torch.tensor(1), value)):
        if batch is not images:
            batch[0, 1, 13, 17] = value
        for budget in (BUDGETS[0], 1.0):
            assert_equal_with_nan(network, batch, budget)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet26", "convnext_atto", "convnextv2_atto"])
def test_a_weight_that_is_not_finite_gives_what_masked_execution_gives(name: str, value: float) -> None:
    network, images = network_of(name), images_of((1, 32, 32))
    block = network.adaptive_blocks()[-1]
    tensors = [*block.parameters(recurse=False), *(m.weight for m in block.modules() if isinstance(m, nn.Conv2d))]
    tensors += [b.running_var for b in block.modules() if isinstance(b, nn.BatchNorm2d)][:3]
    assert_equal_with_nan(network, images, BUDGETS[0])
    for tensor in tensors[:6]:
        kept = tensor.data.flatten()[0].clone()
        tensor.data.view(-1)[0] = value
        assert_equal_with_nan(network, images, BUDGETS[0])
        tensor.data.view(-1)[0] = kept
    assert assert_equal_with_nan(network, images, BUDGETS[0]).isfinite().all()


def assert_equal_with_nan(network: AdaptiveNetwork, images: Tensor, budget: float) -> Tensor:
    """Sparse logits are not finite where masked ones are not, and the same elsewhere, at every call."""
    with torch.inference_mode():
        network.execution = "masked"
        expected = network(images, budget=budget)
        network.execution = "sparse"
        for _ in range(3):
            found = network(images, budget=budget)
            assert torch.allclose(expected, found, atol=1e-3, rtol=1e-3, equal_nan=True), (expected, found)
    return expected


@pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
@pytest.mark.parametrize("channels", [24, 64])
def test_kernels_keep_what_is_no_number(channels: int) -> None:
    """What overflows within a network is not cut to zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 12, channels, generator=generator)
    x[0, 2, 3, :20] = float("nan")
    x[1, 8, 0, 5] = -float("inf")
    matrix = pack(rows_first(torch.randn(channels, channels, 3, 3, generator=generator)), torch.rand(channels),
                  native.form())
    mask = torch.rand(2, 9, 12, generator=generator) < 0.5
    outputs = {"convolution": (x.new_empty(2, 7, 10, channels), x, matrix.weight, matrix.bias, 1, "relu"),
               "convolution_pool": (x.new_empty(2, 4, 5, channels), x, matrix.weight, matrix.bias, 1, "relu"),
               "subsample": (x.new_empty(2, 9, 12, channels + 16), x, mask, 1, 8),
               "layer_norm": (x.clone(), torch.rand(channels), torch.rand(channels), 1e-6)}
    for name, arguments in outputs.items():
        expected, found = [copy.deepcopy(arguments) for _ in range(2)]
        getattr(reference, name)(*expected)
        getattr(operators, name)(*found)
        assert expected[0].isnan().any()
        assert torch.allclose(expected[0], found[0], atol=1e-4, equal_nan=True), name
    for activation in ("relu", "gelu"):
        arguments = x.new_empty(2, 7, 10, channels), x, matrix.weight, matrix.bias, 1, activation
        operators.convolution(*arguments)
        assert arguments[0][0, 0:3, 1:4].isnan().all()
