"""Networks and blocks that others made: torchvision's, one's own, and files of both."""
from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from own_network import TwoStages
from sparse_cases import BUDGETS, assert_same, both, images_of
from timm.models.resnet import ResNet
from torch import nn

import bdsa
from bdsa.errors import UserError
from bdsa.models import surgery
from bdsa.models.dense_copy import fold_batch_norms

TORCHVISION = ("resnet18", "resnet50", "convnext_tiny")


@torch.no_grad()
def torchvision_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=5).eval()
    for key, value in network.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        if key.endswith(("running_var", "layer_scale")) or value.ndim == 1 and key.endswith("weight"):
            value.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_adaptive_and_sparse_under_their_own_names(name):
    network, images = torchvision_network(name), images_of((2, 65, 77))
    names = {*network.state_dict()}
    expected = network(images).detach()
    bdsa.adapt(network, BUDGETS)
    assert not any(module.training for module in network.modules())  # ready for inference, as it was
    with torch.no_grad():
        assert torch.equal(network(images), expected)
        masks = [torch.ones_like(m) for m in network(images, budget=0.4, return_usage=True)[1].masks]
        torch.testing.assert_close(network(images, budget=0.4, masks=masks), expected, rtol=1e-5, atol=1e-5)
    assert names < {*network.state_dict()}
    for budget in (*BUDGETS,):
        assert_same(*both(network, images, budget))
    with torch.inference_mode():
        once, played = network(images, budget=0.4), network(images, budget=0.4)
    assert torch.equal(once, played)
    network.execution = "masked"
    network.train()(images, budget=0.4).sum().backward()
    assert all(b.mask_units["b040"].conv.weight.grad is not None for b in network.adaptive_blocks())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(network.eval())))
    assert torch.equal(copied(images, budget=0.7), network(images, budget=0.7))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.inference_mode()
def test_torchvisions_networks_cost_what_timms_do(name):
    network, images = torchvision_network(name), images_of((2, 65, 77))
    bdsa.adapt(network, BUDGETS)
    twin = bdsa.create_model(name, BUDGETS, 5).eval()
    twin.load_state_dict(network.state_dict())
    for options in ({}, {"per_image": True}):
        (logits, used), (expected, wanted) = (
            each(images, budget=0.4, return_usage=True, **options) for each in (network, twin))
        torch.testing.assert_close(logits, expected)
        assert torch.equal(used.macs, wanted.macs) and torch.equal(used.block_fractions, wanted.block_fractions)
    assert (used.conditional_fraction > 0.1).all()


def test_what_the_stages_of_torchvisions_networks_give_is_known():
    for name in TORCHVISION:
        network = torchvision_network(name)
        bdsa.adapt(network, BUDGETS)
        twin = timm.create_model(name)
        known = [(i["num_chs"], i["reduction"]) for i in network.feature_info]
        assert known == [(i["num_chs"], i["reduction"]) for i in twin.feature_info]


class PreActivation(nn.Module):
    """Norm and relu before each convolution, as no block of timm's ResNet has it."""

    expansion = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None, act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d,
                 **_):
        super().__init__()
        self.bn1, self.conv1 = norm_layer(inplanes), nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = norm_layer(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.downsample = downsample

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        return identity + self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())


class AdaptivePreActivation(bdsa.AdaptiveBlock, PreActivation):
    norm_names = ("bn1", "bn2")

    def geometry(self):
        return self.conv1.in_channels, self.conv1.stride[0]

    def layers(self):
        return [self.conv1], [self.conv2]

    def masked(self, x, mask, budget):
        y = self.conv1(self.bn1(x, budget).relu())
        return self.identity(x, budget) + mask * self.conv2(self.bn2(y, budget).relu())


def own_network() -> nn.Module:
    torch.manual_seed(0)
    network = ResNet(PreActivation, layers=(1, 1, 1, 1), channels=(8, 16, 24, 32), num_classes=5, stem_width=8)
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
    return network.eval()


def test_a_block_of_ones_own_runs_among_others_in_every_execution(monkeypatch):
    monkeypatch.setattr(surgery, "BLOCKS", dict(surgery.BLOCKS))
    with pytest.raises(bdsa.UserError, match="no block with an adaptive form"):
        bdsa.adapt(own_network(), BUDGETS)
    bdsa.register_block(PreActivation)(AdaptivePreActivation)
    network, images = own_network(), images_of((2, 64, 40))
    expected = network(images).detach()
    assert bdsa.adapt(network, BUDGETS) == 4
    with torch.no_grad():
        assert torch.equal(network(images), expected)
        full = [torch.ones_like(m) for m in network(images, budget=0.4, return_usage=True)[1].masks]
        assert torch.equal(network(images, budget=0.4, masks=full), expected)
    assert_same(*both(network, images, 0.7))


class InOrder(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, planes, 3), nn.BatchNorm2d(planes)

    def forward(self, x):
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).flatten(1)


class LayersFirst(InOrder):
    def __init__(self, planes: int) -> None:
        super().__init__(planes)
        first, second = self.bn1, self.bn2
        del self.bn1, self.bn2
        self.bn1, self.bn2 = first, second  # behind conv2


@pytest.mark.parametrize("planes", [8, 16])
def test_norms_are_folded_into_the_layers_that_they_follow_or_not_at_all(planes: int):
    """Those of one's own may be registered in another order than that in which they are called."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 20, 20)
    for kind in (InOrder, LayersFirst):
        network = kind(planes).eval()
        network.bn1.running_mean.normal_(), network.bn2.running_mean.normal_()
        folded = fold_batch_norms(network)
        assert (folded is None) == (kind is LayersFirst)
        if folded is not None:
            torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)


def test_a_block_without_its_parts_is_refused():
    class Half(bdsa.AdaptiveBlock, nn.Conv2d):
        def geometry(self):
            return 1, 1

    with pytest.raises(bdsa.UserError, match="Half has no layers and no masked and no norm_names"):
        bdsa.register_block(nn.Conv2d)(Half)
    with pytest.raises(bdsa.UserError, match="must inherit from bdsa.AdaptiveBlock and Linear"):
        bdsa.register_block(nn.Linear)(Half)
    with pytest.raises(bdsa.UserError, match="adaptive form already"):
        bdsa.register_block(timm.models.resnet.BasicBlock)(Half)


def test_a_saved_network_is_loaded_again(tmp_path):
    images = images_of((2, 32, 32))
    network = bdsa.create_model("cifar_resnet8", [0.5], 3, mask_norm="batch", norm_affine="shared", shortcut="B").eval()
    path = bdsa.save(nn.ModuleList([network])[0], tmp_path / "kept" / "network.safetensors", classes=["a", "b", "c"])
    for _ in range(2):
        again = bdsa.load(path)
        assert torch.equal(again(images, budget=0.5), network(images, budget=0.5))
        path = bdsa.save(again, tmp_path / "again.safetensors")
    twin = timm.create_model("cifar_resnet8", num_classes=4)
    bdsa.adapt(twin, [0.5])
    assert bdsa.load(bdsa.save(twin, tmp_path / "twin.safetensors")).num_classes == 4


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    strange, foreign = timm.create_model("cifar_resnet8", width=8), torchvision.models.resnet18(num_classes=2)
    bdsa.adapt(strange, [0.5]), bdsa.adapt(foreign, [0.5])
    with pytest.raises(bdsa.UserError, match="could not be read again.*give name=... and args="):
        bdsa.save(strange, tmp_path / "a.safetensors")
    assert bdsa.load(bdsa.save(strange, tmp_path / "a.safetensors", args={"width": 8})).budgets.plain() == [0.5]
    with pytest.raises(bdsa.UserError, match="does not say how it is built"):
        bdsa.save(foreign, tmp_path / "b.safetensors")
    with pytest.raises(bdsa.UserError, match="must end in .safetensors"):
        bdsa.save(strange, tmp_path / "b.pt")
    with pytest.raises(bdsa.UserError, match="classes are not the names of 10 classes"):
        bdsa.save(strange, tmp_path / "b.safetensors", args={"width": 8}, classes=["one"])
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import timm, bdsa", "import bdsa, timm.models",
                                   "import bdsa, importlib.util; importlib.util.find_spec('timm')"])
def test_timm_knows_the_names_as_soon_as_the_package_is_imported(order):
    code = (f"{order}\nimport timm\n"
            "print(timm.create_model('cifar_resnet8').num_classes)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "10", done.stderr


def test_the_package_alone_waits_for_neither_torch_nor_timm():
    done = subprocess.run([sys.executable, "-c", "import sys, bdsa; print({'torch', 'timm'} & {*sys.modules})"],
                          capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


class Wide(TwoStages):
    """A network with an attribute of a common name, and whatever else it is given."""

    def __init__(self, **more) -> None:
        super().__init__()
        self.channels = 8
        for name, value in more.items():
            setattr(self, name, value)


def test_a_network_may_have_channels_of_its_own():
    network, images = Wide(), images_of((2, 16, 16))
    bdsa.adapt(network, BUDGETS)
    network.eval().warm_up([(1, 3, 16, 16)], [0.4])
    with torch.inference_mode():
        assert network(images, budget=0.4, return_usage=True)[1].macs.shape == (2,)
        assert network.channels == 8 and network(images, budget=0.4, per_image=True).shape == (2, 10)


class WithPoint(TwoStages):
    def point(self) -> str:
        return "its own"


@pytest.mark.parametrize(("make", "taken"), [
    (lambda: Wide(point=3), "point"), (lambda: Wide(cascade=[1, 2]), "cascade"),
    (lambda: Wide(_expected=1), "_expected"), (lambda: Wide(exact=nn.Linear(2, 2)), "exact"),
    (lambda: Wide(usual=nn.Parameter(torch.ones(1))), "usual"), (WithPoint, "point")])
def test_names_that_adaptive_networks_have_are_refused(make, taken):
    network = make()
    with pytest.raises(UserError, match=f"my net cannot be adapted: adaptive networks have a '{taken}' of their own"):
        bdsa.adapt(network, BUDGETS, name="my net")
    assert type(network) in (Wide, WithPoint), "nothing was changed"


@torch.inference_mode()
def test_a_network_without_its_classifier_is_counted_and_runs():
    network, images = torchvision.models.convnext_tiny(num_classes=5).eval(), images_of((1, 32, 32))
    bdsa.adapt(network, BUDGETS)
    network.classifier = nn.Identity()  # for embeddings
    masked, usage = network(images, budget=0.4, return_usage=True)
    network.execution = "sparse"
    torch.testing.assert_close(network(images, budget=0.4), masked, rtol=1e-4, atol=1e-4)
    assert 0 < float(usage.macs) <= network.dense_macs((32, 32))


@torch.inference_mode()
def test_the_dense_macs_follow_another_classifier():
    network, images = bdsa.create_model("cifar_resnet8", BUDGETS, 10).eval(), images_of((1, 32, 32))
    before = network.dense_macs((32, 32))
    network.reset_classifier(1000)
    network.eval()
    assert network.dense_macs((32, 32)) == before + 64 * 990
    network.fc = torch.nn.Linear(64, 100)  # by hand
    assert network.dense_macs((32, 32)) == before + 64 * 90
    assert network(images, budget=1.0, return_usage=True)[1].macs.shape == (1,)
