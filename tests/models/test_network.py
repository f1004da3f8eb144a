"""Adaptive networks against timm's own, and against a slow execution that computes position by position."""
from __future__ import annotations

import copy

import pytest
import timm
import torch
from network_cases import FAMILIES, SIZES, adaptive, dense, flops_macs, images_of, perturb
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import bdsa.models.network
from bdsa.budgets import Budgets
from bdsa.errors import UserError
from bdsa.method.macs import count_dense_macs
from bdsa.models.blocks import AdaptiveBottleneck
from bdsa.models.factory import create_model
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.surgery import adapt
from bdsa.models.usage import Request

# --- the dense network -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_budget_one_is_timms_network_bit_for_bit(name):
    network = perturb(adaptive(name), images_of((64, 64)))
    state = network.state_dict()
    plain = dense(name).state_dict()
    assert [k for k in state if k in plain] == list(plain)  # every name, in timm's order
    assert all(torch.equal(state[k], v) for k, v in plain.items())
    for size in SIZES:
        x = images_of(size)
        expected = dense(name)(x)
        logits, usage = network(x, budget=1.0, return_usage=True)
        assert torch.equal(network(x), expected) and torch.equal(logits, expected)
        assert usage.macs.tolist() == [flops_macs(dense(name), x[:1])] * 2
        assert usage.conditional_fraction.tolist() == [1, 1] and bool((usage.block_fractions == 1).all())
        assert all(bool(m.all()) for m in usage.masks) and usage.mask_logits == [None] * len(usage.masks)


@pytest.mark.slow
@pytest.mark.parametrize("affine", ["separate", "shared"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_all_ones_masks_are_the_dense_network_bit_for_bit(name, affine):
    network = adaptive(name, [0.5], affine)
    for block in network.adaptive_blocks():
        block.mask_units["b050"].conv.bias.fill_(1e4)
    for size in SIZES:
        x = images_of(size)
        logits, usage = network(x, budget=0.5, return_usage=True)
        assert torch.equal(logits, dense(name)(x))
        units = sum(b.mask_units["b050"].macs(*m.shape[2:]) for b, m in zip(network.adaptive_blocks(), usage.masks))
        assert usage.conditional_fraction.tolist() == [1, 1]
        assert usage.macs.tolist() == [flops_macs(dense(name), x[:1]) + units] * 2


@pytest.mark.parametrize("name, giga", [("resnet18", 1.8141), ("resnet50", 4.0892), ("convnext_tiny", 4.4555)])
def test_known_macs_at_224(name, giga):
    network = adaptive(name)
    assert round(network.dense_macs((224, 224)) / 1e9, 4) == giga
    assert network.dense_macs((224, 224)) == count_dense_macs(dense(name), (224, 224))


def test_counting_leaves_modes_hooks_and_weights_alone():
    network = bdsa.create_model("cifar_resnet8", [0.5], 10).train()
    network.layer1[0].bn1.eval()  # frozen, as in fine-tuning
    seen, before = [], {name: value.data_ptr() for name, value in network.state_dict().items()}
    network.conv1.register_forward_hook(lambda module, given, found: seen.append(found.device.type))
    modes = [module.training for module in network.modules()]
    network(torch.randn(2, 3, 32, 32), budget=0.5, return_usage=True)
    assert network.dense_macs((16, 16)) > 0 and network.block_macs((16, 16))
    assert [module.training for module in network.modules()] == modes
    assert seen == ["cpu"] and {name: value.data_ptr() for name, value in network.state_dict().items()} == before


class Listed(nn.Module):
    """A list of modules that nobody registered, beside the same ones, and a forward bound on the instance."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.steps = [self.first, self.second]
        self.forward = self.in_order

    def in_order(self, x):
        for step in self.steps:
            x = step(x)
        return x


def test_a_count_never_runs_the_network_itself():
    for network in (Listed(), dense("resnet18")):
        network.train()
        expected = count_dense_macs(network, (32, 32))
        network.compile(backend="eager")
        assert count_dense_macs(network, (32, 32)) == expected > 0
        assert all(int(module.num_batches_tracked) == 0 for module in network.modules()
                   if isinstance(module, nn.BatchNorm2d))


# --- masks and budgets -----------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_masks_have_the_blocks_resolution_and_differ_between_budgets(name):
    x = images_of((61, 45))
    network = perturb(adaptive(name), x)
    first, second = (network(x, budget=b, return_usage=True) for b in (0.3, 0.6))
    shapes = []
    for module in network.adaptive_blocks():
        module.register_forward_hook(lambda m, inputs, output: shapes.append([2, 1, *output.shape[2:]]))
    network(x)
    for (_, usage) in (first, second):
        assert [list(m.shape) for m in usage.masks] == shapes
        assert all(m.dtype == torch.bool for m in usage.masks)
        assert all(torch.equal(m, logits >= 0) for m, logits in zip(usage.masks, usage.mask_logits))
    assert any(not torch.equal(a, b) for a, b in zip(first[1].masks, second[1].masks))
    assert not torch.equal(first[0], second[0])
    assert torch.equal(network(x, budget=0.3), first[0])


@torch.no_grad()
def test_noise_moves_the_masks_but_not_their_logits():
    x = images_of((64, 64))
    network = perturb(adaptive("cifar_resnet20"), x)
    quiet, again, noisy = (network(x, 0.3, True, noise=n)[1] for n in (False, False, True))
    assert all(torch.equal(a, b) for a, b in zip(quiet.masks, again.masks))
    assert torch.equal(quiet.mask_logits[0], noisy.mask_logits[0])  # later blocks see another input
    assert not torch.equal(quiet.masks[0], noisy.masks[0])


@pytest.mark.parametrize("budgets", [[0.5], [0.1, 0.25, 0.5, 0.75, 0.9], [0.5, 1.0]])
def test_any_number_of_budgets(budgets):
    network = adaptive("cifar_resnet20", budgets)
    assert all(network(images_of((32, 32)), budget=b).shape == (2, 10) for b in budgets)
    assert list(network.layer1[0].mask_units) == [n for n in network.budgets.names if n != "b100"]
    for untrained in (0.4, 0.51):
        with pytest.raises(UserError, match=rf"{untrained} was not trained.*{budgets[0]}"):
            network(images_of((32, 32)), budget=untrained)


@torch.no_grad()
def test_deepcopy_is_independent_and_answers_the_same():
    x = images_of((64, 64))
    network = perturb(adaptive("convnext_atto"), x)
    twin = copy.deepcopy(network)
    before = network(x, budget=0.3)
    assert torch.equal(twin(x, budget=0.3), before)
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(network(x, budget=0.3), before)


@pytest.mark.parametrize("name, kwargs, message", [
    ("seresnet50", {}, "channel attention"), ("resnetaa50", {}, "anti-aliasing"),
    ("resnet18", {"drop_block_rate": 0.1}, "drop block"),
    ("resnet50_gn", {}, "GroupNorm"), ("vit_tiny_patch16_224", {}, "a VisionTransformer has no adaptive form"),
    ("regnetx_002", {}, "a RegNet has no adaptive form"),
    ("resnett18", {}, "did you mean 'resnet18'")])
def test_networks_that_cannot_be_adapted(name, kwargs, message):
    with pytest.raises(UserError, match=message) as caught:
        create_model(name, [0.5], **kwargs)
    assert "convnext" in str(caught.value)  # it says what can be adapted


def test_weights_of_another_width_are_one_error(tmp_path):
    torch.save({"model": {"stages.0.0.pwconv1.weight": torch.ones(3, 4)}}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="does not fit ConvNeXt"):
        create_model("convnext_atto", [0.5], weights=tmp_path / "weights.pth")


def test_wrong_surgery_is_refused_and_changes_nothing():
    network = timm.create_model("seresnet18")
    with pytest.raises(UserError):
        adapt(network, Budgets([0.5]))
    assert type(network.layer1[0]).__module__.startswith("timm.")
    with pytest.raises(UserError, match="a str has no adaptive form"):
        adapt("resnet18", Budgets([0.5]))
    with pytest.raises(UserError, match="did you mean 'shared'"):
        create_model("cifar_resnet20", [0.5], norm_affine="shard")
    with pytest.raises(UserError, match="it is adaptive already"):
        adapt(adaptive("cifar_resnet20"), Budgets([0.5]))


# --- training --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet50", "convnext_atto"])
def test_the_fraction_teaches_the_mask_units_of_its_budget_only(name):
    x = images_of((32, 32))
    network = perturb(adaptive(name), x)
    _, usage = network(x, budget=0.3, return_usage=True)
    usage.conditional_fraction.mean().backward()
    for block in network.adaptive_blocks():
        for parameter in block.mask_units["b030"].parameters():
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert all(p.grad is None for p in block.mask_units["b060"].parameters())


@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("name, layer", [("resnet18", "layer1.0"), ("resnet18", "layer2.0"), ("resnet50", "layer2.0"),
                                         ("resnext50_32x4d", "layer1.0"), ("convnext_atto", "stages.0.blocks.0")])
def test_cost_gradient_is_the_written_out_sum(name, layer, differentiable):
    """d cost / d bias = sum of sigmoid'(logit / tau) / tau over the positions of m and over those of D(m)."""
    tau = 2.0
    block = adaptive(name).get_submodule(layer)
    unit = block.mask_units["b030"]
    x = torch.randn(1, unit.conv.in_channels, 7, 6)
    _, usage = block.run(x, Request("b030", tau, differentiable_dilation=differentiable))
    usage.cost.sum().backward()
    slope = lambda logit: float(torch.sigmoid(logit / tau) * torch.sigmoid(-logit / tau)) / tau  # noqa: E731
    logits = unit(x).detach()[0, 0]
    dilated_macs, masked_macs = block.macs_per_position()
    expected = masked_macs * sum(slope(v) for v in logits.flatten())
    step = 2 if isinstance(block, AdaptiveBottleneck) and block.stride == 2 else 1  # of m in D(m)'s map
    if differentiable and dilated_macs:
        size = x.shape[2:] if step == 2 else logits.shape
        for i in range(size[0]):
            for j in range(size[1]):
                users = [logits[u // step, v // step] for u in (i - 1, i, i + 1) for v in (j - 1, j, j + 1)
                         if 0 <= u < size[0] and 0 <= v < size[1] and u % step == v % step == 0]
                expected += dilated_macs * slope(max(users))
    assert float(unit.conv.bias.grad) == pytest.approx(expected, rel=1e-4)


def stepped(name: str, affine: str, budget: float) -> tuple[AdaptiveNetwork, dict[str, Tensor], dict[str, Tensor]]:
    """A network after a training step at one budget, and its state before and after."""
    network = adaptive(name, (0.3, 0.6), affine).train()
    with torch.no_grad():
        for block in network.adaptive_blocks():  # mostly active: a block that runs nowhere learns nothing
            for unit in block.mask_units.values():
                unit.conv.bias.fill_(2.0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    logits, usage = network(images_of((64, 64)), budget=budget, return_usage=True, noise=True)
    (logits.square().mean() + usage.conditional_fraction.mean()).backward()
    optimizer.step()
    return network, before, network.state_dict()


@pytest.mark.parametrize("affine", ["separate", "shared"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_atto"])
def test_a_step_at_one_budget_leaves_the_others(name, affine):
    network, before, after = stepped(name, affine, budget=0.3)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    mine = {k for k in before if ".b030." in k and not k.endswith("num_batches_tracked")}
    assert mine and mine <= moved
    assert not any(".b060." in k for k in moved)
    block = "layer2.0." if name.startswith("resnet") else "stages.1.blocks.0."
    vectors = {k for k in moved if k.startswith(block) and "per_budget" not in k and "mask_units" not in k
               and before[k].ndim == 1 and ("bn" in k or "norm" in k or "downsample" in k)}
    if affine == "separate":
        assert not vectors  # the dense norm: neither affine nor statistics
    else:
        assert vectors and all(k.endswith(("weight", "bias")) for k in vectors)
        assert not any("per_budget" in k and k.endswith(("weight", "bias")) for k in before)


def test_a_dense_step_leaves_the_budgets():
    _, before, after = stepped("resnet18", "separate", budget=1.0)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert "layer1.0.bn1.running_mean" in moved and not any(".b0" in k for k in moved)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_gradient_checkpointing_gives_the_same_gradients(name, monkeypatch):
    gradients, calls = [], []
    monkeypatch.setattr(bdsa.models.network, "checkpoint",
                        lambda *args, **kwargs: calls.append(args) or checkpoint(*args, **kwargs))
    for enabled in (False, True):
        network = perturb(adaptive(name, [0.5]), images_of((64, 64))).train()
        network.set_grad_checkpointing(enabled)
        torch.manual_seed(4)
        logits, usage = network(images_of((64, 64)), budget=0.5, return_usage=True, temperature=2.0, noise=True)
        (logits.square().mean() + usage.conditional_fraction.mean()).backward()
        gradients.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
    assert len(calls) == len(network.adaptive_blocks())
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys() and len(plain) > 60
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient, rtol=1e-4, atol=1e-6)
