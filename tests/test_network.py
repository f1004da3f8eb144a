"""Adaptive networks against timm's own, and against a slow execution that computes position by position."""
from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import bdsa.models.network
from bdsa.budgets import Budgets
from bdsa.errors import UserError
from bdsa.method.macs import count_dense_macs
from bdsa.models.blocks import AdaptiveBasicBlock, AdaptiveBlock, AdaptiveBottleneck
from bdsa.models.factory import create_model
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.surgery import adapt
from bdsa.models.usage import Request

FAMILIES = ("cifar_resnet20", "resnet18", "resnet50", "resnext50_32x4d", "convnext_atto", "convnext_tiny",
            "convnextv2_atto")
SIZES = ((64, 64), (32, 96), (61, 45))


# --- networks to test on ---------------------------------------------------------------------------

@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small layers gain nothing from a second thread, and lose much where another process has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def dense(name: str) -> nn.Module:
    """timm's network in eval mode, without zeros or ones among its weights: a fresh one would hide its
    residual branches behind layer scales of 1e-6 and last norms of 0. Copied, never changed."""
    torch.manual_seed(1)
    network = timm.create_model(name).eval()
    randomise(network, lambda key: True)
    return network


@torch.no_grad()
def randomise(network: nn.Module, chosen) -> None:
    """New values for the chosen vectors: gains near one, offsets near zero, variances near one."""
    for key, value in network.state_dict().items():
        if value.ndim != 1 or not chosen(key):
            continue
        noise = torch.randn_like(value)
        if key.endswith("running_var"):
            value.copy_(0.7 + 0.3 * noise.abs())
        else:
            value.copy_(0.1 * noise + (key.endswith(("weight", "gamma")) and "head.fc" not in key))


def adaptive(name: str, budgets=(0.3, 0.6), affine: str = "separate") -> AdaptiveNetwork:
    """An adaptive copy of `dense(name)`, in eval mode."""
    network = copy.deepcopy(dense(name))
    torch.manual_seed(0)  # fresh mask units
    adapt(network, Budgets(budgets), affine, name)
    return network


@torch.no_grad()
def perturb(network: AdaptiveNetwork, images: Tensor) -> AdaptiveNetwork:
    """Give every budget norms of its own and mask units that leave from 20 % to 80 % of the positions."""
    torch.manual_seed(2)
    randomise(network, lambda key: ".per_budget." in key)
    for name in network.budgets.adaptive:
        x = images
        for module in network.trunk():
            if isinstance(module, AdaptiveBlock):
                unit = module.mask_units[name]
                unit.conv.bias -= unit(x).quantile(float(torch.empty(()).uniform_(0.2, 0.8)))
                x, _ = module.run(x, Request(name))
            else:
                x = module(x)
    return network


def images_of(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def flops_macs(network, x: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops() // 2


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


# --- masks and budgets -----------------------------------------------------------------------------

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
    ("resnet18", {"drop_block_rate": 0.1}, "drop block"), ("resnet18", {"output_stride": 16}, "dilated"),
    ("resnet50_gn", {}, "GroupNorm"), ("vit_tiny_patch16_224", {}, "a VisionTransformer has no adaptive form"),
    ("regnetx_002", {}, "a RegNet has no adaptive form"), ("convnext_atto", {"output_stride": 16}, "dilated"),
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
    with pytest.raises(UserError, match="did you mean 'shared'"):
        create_model("cifar_resnet20", [0.5], norm_affine="shard")
    with pytest.raises(UserError, match="AdaptiveCifarResNet has no adaptive form"):
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


# --- position by position --------------------------------------------------------------------------

class Slow:
    """Runs a block for one image, only where it must, one dot product at a time, and counts the products.

    Values that were not computed are NaN: whoever reads one gets a NaN result.
    """

    def __init__(self, budget: str) -> None:
        self.budget, self.macs = budget, 0

    def dot(self, weight: Tensor, values: Tensor) -> Tensor:
        """weight: [O, ...], values: broadcast to it -> [O]; every product is one MAC."""
        products = weight * values
        self.macs += products.numel()
        return products.flatten(1).sum(1)

    def conv(self, layer: nn.Conv2d, x: Tensor, where: Tensor) -> Tensor:
        """x: [C, H, W], where: bool [h, w] -> [O, h, w], NaN where not asked for."""
        (s, _), (kh, kw), (ph, pw) = layer.stride, layer.kernel_size, layer.padding
        padded, per_group = F.pad(x, (pw, pw, ph, ph)), layer.out_channels // layer.groups
        out = x.new_full((layer.out_channels, *where.shape), torch.nan)
        for i, j in where.nonzero().tolist():
            window = padded[:, i * s:i * s + kh, j * s:j * s + kw].reshape(layer.groups, 1, -1, kh, kw)
            values = window.expand(-1, per_group, -1, -1, -1).flatten(0, 1)  # what each output channel reads
            out[:, i, j] = self.dot(layer.weight, values) + (0 if layer.bias is None else layer.bias)
        return out

    def batch_norm(self, layer: nn.Module, x: Tensor) -> Tensor:
        own = layer.per_budget[self.budget]
        column = lambda v: v[:, None, None]  # noqa: E731
        return (x - column(own.running_mean)) / column(own.running_var + own.eps).sqrt() * column(own.weight) \
            + column(own.bias)

    def shortcut(self, block: AdaptiveBlock, x: Tensor) -> Tensor:
        if block.downsample is None:
            return x
        for layer in block.downsample if isinstance(block.downsample, nn.Sequential) else [block.downsample]:
            x = self.batch_norm(layer, x) if isinstance(layer, nn.BatchNorm2d) else layer(x[None])[0]
        return x

    def resnet(self, block: AdaptiveBlock, x: Tensor, mask: Tensor) -> Tensor:
        convs, norms = [block.conv1, block.conv2], [block.bn1, block.bn2]
        before = mask  # where the first layer runs
        if isinstance(block, AdaptiveBasicBlock):
            before = read_by(mask, 1, mask.shape)
        else:
            convs, norms = [*convs, block.conv3], [*norms, block.bn3]
            before = read_by(mask, block.conv2.stride[0], x.shape[1:])
        y = x
        for i, (conv, norm) in enumerate(zip(convs, norms)):
            y = self.batch_norm(norm, self.conv(conv, y, mask if i else before))
            y = y.relu() if i + 1 < len(convs) else y  # NaN stays NaN
        out = self.shortcut(block, x).clone()
        out[:, mask] += y[:, mask]
        return out.relu()

    def convnext(self, block: AdaptiveBlock, x: Tensor, mask: Tensor) -> Tensor:
        norm = block.norm.per_budget[self.budget]
        y = self.conv(block.conv_dw, x, mask)[:, mask].T  # [positions, C]
        y = y - y.mean(1, keepdim=True)
        y = y / (y.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
        hidden = [block.mlp.act(self.dot(block.mlp.fc1.weight.flatten(1), row) + block.mlp.fc1.bias) for row in y]
        hidden = torch.stack(hidden) if hidden else y.new_zeros(0, block.mlp.fc1.bias.numel())
        if hasattr(block.mlp, "grn"):  # over the active positions only
            size = hidden.square().sum(0).sqrt()
            response = size / (size.mean() + block.mlp.grn.eps)
            hidden = hidden + block.mlp.grn.weight * hidden * response + block.mlp.grn.bias
        scale = 1 if block.gamma is None else block.gamma
        out = x.clone()
        for (i, j), row in zip(mask.nonzero().tolist(), hidden):
            out[:, i, j] += scale * (self.dot(block.mlp.fc2.weight.flatten(1), row) + block.mlp.fc2.bias)
        return out


def read_by(mask: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Input positions that a 3x3 convolution with padding 1 reads for the outputs of `mask`."""
    needed = torch.zeros(*size, dtype=torch.bool)
    for i, j in mask.nonzero().tolist():
        needed[max(i * stride - 1, 0):i * stride + 2, max(j * stride - 1, 0):j * stride + 2] = True
    return needed


@pytest.mark.parametrize("name, size", [
    ("cifar_resnet20", (15, 18)), ("resnet18", (45, 37)), ("resnet50", (45, 37)), ("resnext50_32x4d", (40, 48)),
    ("convnext_atto", (61, 45)), ("convnext_tiny", (36, 44)), ("convnextv2_atto", (61, 45))])
@torch.no_grad()
def test_masked_blocks_equal_the_slow_execution_in_output_and_macs(name, size):
    x = images_of(size).double()
    network = perturb(adaptive(name).double(), x)
    macs = dense_macs = flops_macs(dense(name), images_of(size, 1))
    images, densities, total = x, [], 0
    executed = torch.zeros(2, dtype=torch.float64)
    for module in network.trunk():
        if not isinstance(module, AdaptiveBlock):
            x = module(x)
            continue
        y, usage = module.run(x, Request("b060"))
        shortcut = getattr(module, "downsample", None)
        block_total = flops_macs(module, x[:1]) - (flops_macs(shortcut, x[:1]) if shortcut is not None else 0)
        assert usage.total == module.run(x, Request(None))[1].total == block_total
        densities.append(usage.mask.float().mean().item())
        for image in range(2):
            slow = Slow("b060")
            run = slow.resnet if "resne" in name else slow.convnext
            torch.testing.assert_close(run(module, x[image], usage.mask[image, 0]), y[image], rtol=1e-9, atol=1e-9)
            assert usage.cost[image].item() == slow.macs
            executed[image] += slow.macs
        macs += flops_macs(module.mask_units["b060"], x[:1]) - block_total
        total += block_total
        x = y
    assert min(densities) < 0.4 and max(densities) > 0.6 and sum(0 < d < 1 for d in densities) > len(densities) / 2
    usage = network(images, budget=0.6, return_usage=True)[1]
    assert torch.equal(usage.macs, macs + executed) and dense_macs > total
    torch.testing.assert_close(usage.conditional_fraction, executed / total, rtol=1e-12, atol=0)
