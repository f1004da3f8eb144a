"""Go on from a trained network: other classes keep its masks and norms, new budgets begin from their neighbours."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bdsa.budgets import Budgets
from bdsa.errors import UserError
from bdsa.models.checkpoints import ModelSpec, network_content, save
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.start import head_names, nearest_budget, start_from

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module", params=["cifar_resnet8", "convnext_atto"])
def trained(request, tmp_path_factory) -> tuple[Path, ModelSpec, dict[str, Tensor]]:
    """A file, its form and its tensors, all of them away from where a fresh network starts."""
    torch.manual_seed(0)
    spec = ModelSpec(request.param, 3, [0.3, 0.7, 1.0])
    network = spec.build()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    path = tmp_path_factory.mktemp("start") / "best.pt"
    save(path, network_content(network, spec, classes=CLASSES))
    return path, spec, network.state_dict()


def started(path: Path, spec: ModelSpec, classes: list[str],
            reset_head: bool = False) -> tuple[AdaptiveNetwork, list[str]]:
    torch.manual_seed(1)
    network = spec.build()
    return network, start_from(network, spec, path, classes, reset_head)


def of_budget(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A budget's tensors, by their names without it."""
    return {key.replace(f".{name}.", ".*."): tensor for key, tensor in state.items() if f".{name}." in key}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_same_form_is_the_same_network(trained) -> None:
    path, spec, state = trained
    network, notes = started(path, spec, CLASSES)
    assert equal(network.state_dict(), state) and not notes


def test_other_classes_keep_all_but_the_head(trained) -> None:
    path, spec, state = trained
    wanted = ModelSpec(spec.name, 5, spec.budgets)
    with pytest.raises(UserError, match="3 classes .cat, dog, owl.*5 classes.*model.reset_head=true"):
        started(path, wanted, list("abcde"))
    network, notes = started(path, wanted, list("abcde"), reset_head=True)
    torch.manual_seed(1)
    fresh, head = wanted.build().state_dict(), head_names(network)
    assert {network.state_dict()[name].shape[0] for name in head} == {5} and len(head) == 2
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in head else state[name]), name
    assert any("classifier is new" in note for note in notes)


def test_as_many_other_classes_need_a_new_head_too(trained) -> None:
    path, spec, state = trained
    with pytest.raises(UserError, match="owl.*data 3 classes .cat, cow, dog"):
        started(path, spec, ["cat", "cow", "dog"])
    network, _ = started(path, spec, ["cat", "cow", "dog"], reset_head=True)
    assert all(not torch.equal(network.state_dict()[name], state[name]) for name in head_names(network))


def test_the_same_classes_in_another_order_are_put_into_it(trained) -> None:
    path, spec, state = trained
    network, _ = started(path, spec, ["owl", "cat", "dog"], reset_head=True)
    for name in head_names(network):
        assert torch.equal(network.state_dict()[name], state[name][[2, 0, 1]])


def test_new_budgets_begin_from_their_neighbours(trained) -> None:
    path, spec, state = trained
    network, notes = started(path, ModelSpec(spec.name, 3, [0.2, 0.3, 0.5, 0.6, 0.9]), CLASSES)
    now = network.state_dict()
    for budget, neighbour in (("b020", "b030"), ("b030", "b030"), ("b050", "b030"), ("b060", "b070"), ("b090", "b070")):
        copied = of_budget(now, budget)
        assert equal(copied, of_budget(state, neighbour)), budget
        assert any(".mask_units." in name for name in copied) and any(".per_budget." in name for name in copied)
    assert len(notes) == 4 and "budget 0.2" in notes[0] and "begins from its 0.3" in notes[0]


def test_a_dense_start_gives_its_norms_to_every_budget(tmp_path: Path) -> None:
    dense = ModelSpec("cifar_resnet8", 3, [1.0])
    network = dense.build()
    with torch.no_grad():
        network.layer1[0].bn1.weight.fill_(3.5)
    save(tmp_path / "dense.pt", network_content(network, dense, classes=CLASSES))
    network, notes = started(tmp_path / "dense.pt", ModelSpec("cifar_resnet8", 3, [0.5]), CLASSES)
    assert torch.equal(network.layer1[0].bn1.per_budget["b050"].weight, torch.full((16,), 3.5))
    assert "begins from its dense network" in notes[0]


@pytest.mark.parametrize("change", [{"norm_affine": "shared"}, {"mask_norm": "batch"}])
def test_another_form_is_refused(trained, change: dict) -> None:
    path, spec, _ = trained
    with pytest.raises(UserError, match=next(iter(change))):
        started(path, ModelSpec(spec.name, 3, spec.budgets, **change), CLASSES)


@pytest.mark.parametrize("content, said", [
    ({"weights": torch.zeros(2)}, "is not a checkpoint of bdsa-train"),
    ({"format": "bdsa", "model": {"name": "cifar_resnet8"}}, "state_dict is missing"),
    (["no", "dictionary"], "holds a list"),
])
def test_a_file_without_weights_is_one_line(content, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(UserError, match=said) as error:
        started(tmp_path / "file.pt", ModelSpec("cifar_resnet8", 3, [0.5]), CLASSES)
    assert "\n" not in str(error.value)


def test_of_two_neighbours_the_lower_is_taken() -> None:
    there = Budgets([0.3, 0.5, 0.7]).adaptive
    assert [nearest_budget(b, there) for b in Budgets([0.1, 0.4, 0.6, 0.61])] == [0.3, 0.3, 0.5, 0.7]
    assert nearest_budget(there[0], ()) is None


def test_padding_becomes_projections_that_compute_the_same_at_every_budget(tmp_path) -> None:
    torch.manual_seed(0)
    stated = ModelSpec("cifar_resnet8", 3, [0.3, 0.7, 1.0], mask_norm="batch")
    network = stated.build()
    images = torch.randn(64, 3, 32, 32)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        for budget in stated.budgets:  # each has statistics of its own, here those of the batch
            network.train()(images, budget=budget)
    path = tmp_path / "a.pt"
    save(path, network_content(network, stated, classes=CLASSES))
    wanted = ModelSpec("cifar_resnet8", 3, [0.3, 0.7, 1.0], args={"shortcut": "B"}, mask_norm="batch")
    projected = wanted.build()
    notes = start_from(projected, wanted, path, CLASSES, images=images.split(16))
    assert len(notes) == 1 and "projections" in notes[0]
    assert isinstance(projected.layer2[0].downsample[0], torch.nn.Conv2d)
    for mode in (False, True):  # in training norms see the batch, whose statistics they were fitted to
        for budget in stated.budgets:
            before, after = (n.train(mode)(images, budget=budget).detach() for n in (network, projected))
            assert torch.allclose(after, before, atol=0.02 * float(before.std()))
    projected.train()(images, budget=0.3).square().mean().backward()
    assert projected.layer2[0].downsample[1].per_budget["b030"].weight.grad[:8].abs().min() > 0  # new channels learn


def test_projections_do_not_become_padding_nor_share_norms(tmp_path) -> None:
    with_b, shared = {"args": {"shortcut": "B"}}, {"norm_affine": "shared"}
    for stated, wanted, said in ((with_b, {}, "args={'shortcut': 'B'}"),
                                 (shared, {**shared, **with_b}, "takes separate")):
        spec = ModelSpec("cifar_resnet8", 3, [0.3], **stated)
        save(tmp_path / "start.pt", network_content(spec.build(), spec, classes=CLASSES))
        with pytest.raises(UserError, match=said):
            started(tmp_path / "start.pt", ModelSpec("cifar_resnet8", 3, [0.3], **wanted), CLASSES)


def test_a_dense_network_of_padding_starts_adaptive_ones_of_projections(tmp_path) -> None:
    torch.manual_seed(0)
    stated, images = ModelSpec("cifar_resnet8", 3, [1.0]), torch.randn(8, 3, 32, 32)
    dense = stated.build().eval()
    save(tmp_path / "dense.pt", network_content(dense, stated, classes=CLASSES))
    for affine in ("separate", "shared"):
        wanted = ModelSpec("cifar_resnet8", 3, [0.3, 1.0], affine, {"shortcut": "B"}, "batch")
        network = wanted.build()
        start_from(network, wanted, tmp_path / "dense.pt", CLASSES, images=[images])
        assert torch.allclose(network.eval()(images), dense(images), atol=1e-4)
        everywhere = [torch.ones(8, 1, n, n, dtype=torch.bool) for n in (32, 16, 8)]
        assert torch.allclose(network(images, budget=0.3, masks=everywhere), dense(images), atol=1e-4)
