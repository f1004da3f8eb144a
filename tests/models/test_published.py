"""Published checkpoints: the same masks and logits as the published code, or one clear error."""
from __future__ import annotations

import json
import os
import re

import pytest
import torch
from command_line import run
from published_cases import Case, read_case
from small_data import write_folder
from timm.models.convnext import checkpoint_filter_fn

import bdsa
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.config.data import DataSpec
from bdsa.data.datasets import create_splits
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.published import published_name

TEN = {str(label): 1 for label in range(10)}


@pytest.fixture(scope="module")
def resnet_case() -> Case:
    return read_case("resnet18_multi")


@pytest.fixture(scope="module")
def convnext_case() -> Case:
    return read_case("convnext_tiny")


def changed(case: Case, **tensors: torch.Tensor | None) -> dict:
    """The case's checkpoint with some tensors replaced, or left out where None; dots are written `__`."""
    state = {**case.checkpoint["state_dict"], **{k.replace("__", "."): v for k, v in tensors.items()}}
    return {**case.checkpoint, "state_dict": {k: v for k, v in state.items() if v is not None}}


def single(case: Case) -> dict:
    """What a single-budget ResNet file holds, made from a multi-budget one's budget 0.3."""
    state = {k.replace("masker03", "masker"): v for k, v in case.checkpoint["state_dict"].items()
             if not re.search(r"masker0[57]|_0[357]\.", k)}
    return {"state_dict": state, "epoch": 1, "best_prec1": 1.0}


def assert_answers(network: AdaptiveNetwork, case: Case) -> None:
    """Masks equal position for position; logits to 1e-4 of their spread."""
    network.eval()
    for budget, expected in case.logits.items():
        with torch.no_grad():
            logits, usage = network(case.images, budget=budget, return_usage=True)
        for mask, right in zip(usage.masks, case.masks[budget], strict=True):
            assert torch.equal(mask, right)
        assert (logits - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())


def test_multi_budget_resnet_answers_as_published(resnet_case):
    network = bdsa.load_published_checkpoint(resnet_case.checkpoint, "resnet18_multi", 10)
    assert network.budgets.values == (0.3, 0.5, 0.7)
    assert_answers(network, resnet_case)


def test_single_budget_convnext_answers_as_published(convnext_case):
    network = bdsa.load_published_checkpoint(convnext_case.checkpoint, "convnext_tiny", budget=0.5)
    assert network.budgets.values == (0.5,)
    assert_answers(network, convnext_case)


def test_the_case_has_mixed_masks(resnet_case, convnext_case):
    """Otherwise equal masks would say little."""
    for case in (resnet_case, convnext_case):
        for masks in case.masks.values():
            assert 0.2 < torch.cat([m.flatten() for m in masks]).float().mean() < 0.9


def test_a_file_reads_as_its_dictionary_with_and_without_the_data_parallel_prefix(resnet_case, tmp_path):
    state = {f"module.{k}": v for k, v in resnet_case.checkpoint["state_dict"].items()}
    torch.save({**resnet_case.checkpoint, "state_dict": state}, tmp_path / "model_best.pth.tar")
    network = bdsa.load_published_checkpoint(tmp_path / "model_best.pth.tar", "resnet18_multi", 10, budget=0.5)
    plain = bdsa.load_published_checkpoint(resnet_case.checkpoint, "resnet18", 10).state_dict()
    assert all(torch.equal(v, plain[k]) for k, v in network.state_dict().items())
    assert_answers(network, resnet_case)


@pytest.mark.slow
@pytest.mark.parametrize("name, architecture, asked", [
    ("resnet18_multi", "resnet18_multi", []), ("convnext_tiny", "convnext_tiny", ["budgets.targets=[0.5]"])])
def test_evaluation_measures_the_budgets_of_a_file(tmp_path, name, architecture, asked):
    case = read_case(name)
    torch.save(case.checkpoint, tmp_path / "model_best.pth.tar")
    data = ["data=folder", f"data.root={write_folder(tmp_path / 'data', dict.fromkeys(('train', 'val'), TEN))}"]
    size = ["data.image_size=64", "data.workers=0"]
    command = [f"checkpoint={tmp_path}/model_best.pth.tar", f"published={architecture}", *asked, *data, *size]
    outcome = run(evaluate_main, [*command, f"out={tmp_path / 'out'}", "trainer.pictures=0"])
    assert outcome.code == 0, outcome.err
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    splits = create_splits(DataSpec("folder", str(tmp_path / "data"), augmentation="auto", image_size=64))
    network = bdsa.load_published_checkpoint(case.checkpoint, architecture, budget=0.5).eval()
    images = torch.stack([image for image, _ in splits.val])
    assert [row["budget"] for row in rows] == list(case.logits) == list(network.budgets)
    for row in rows:
        with torch.no_grad():
            logits, usage = network(images, budget=row["budget"], return_usage=True)
        right = float((logits.argmax(dim=1) == torch.arange(10)).double().mean())
        assert row["top1"] == pytest.approx(100 * right) and row["images"] == 10
        assert row["conditional_fraction"] == pytest.approx(float(usage.conditional_fraction.mean()), abs=1e-4)


@pytest.mark.slow
def test_what_evaluation_cannot_read_is_one_line(tmp_path):
    torch.save(read_case("convnext_tiny").checkpoint, tmp_path / "single.pth")
    for arguments, expected in (
            (["published=convnext_tiny"], "budgets.targets=[0.5]"),
            ([], "published=resnet18_multi"),
            (["published=convnext_tinny", "budgets.targets=[0.5]"], "did you mean 'convnext_tiny'"),
            (["published=convnext_tiny", "budgets.targets=[0.5]"], "which data?")):
        outcome = run(evaluate_main, [f"checkpoint={tmp_path}/single.pth", *arguments, f"out={tmp_path / 'out'}"])
        assert outcome.code == 1 and expected in outcome.err and len(outcome.err.splitlines()) == 1, outcome.err
    assert not (tmp_path / "out").exists()
    outcome = run(evaluate_main, ["published=resnet18_multi", "model=resnet18"])
    assert outcome.code == 1 and "checkpoint=PATH" in outcome.err


def test_every_tensor_of_the_file_is_used(resnet_case, convnext_case):
    """Each stays reachable: no two names of the file end in the same place, none is dropped."""
    for case, architecture, budget in ((resnet_case, "resnet18_multi", None), (convnext_case, "convnext_tiny", 0.5)):
        network = bdsa.load_published_checkpoint(case.checkpoint, architecture, budget=budget)
        digits = {name: name[1:].rstrip("0") if case.multi else "" for name in network.budgets.names}
        loaded = {published_name(k, digits): v for k, v in network.state_dict().items()}
        assert loaded.keys() == case.checkpoint["state_dict"].keys()
        assert all(torch.equal(loaded[k], v) for k, v in case.checkpoint["state_dict"].items())


def test_names_agree_with_timms_mapping(convnext_case):
    """Our table and timm's function are each other's inverse on the dense network's names."""
    network = bdsa.load_published_checkpoint(convnext_case.checkpoint, "convnext_tiny", budget=0.5)
    dense = [k for k in network.state_dict() if ".mask_units." not in k and ".per_budget." not in k]
    theirs = {published_name(k, {}): torch.empty(0) for k in dense}
    assert list(checkpoint_filter_fn(theirs, network)) == dense


@pytest.mark.parametrize("architecture, name, kwargs, example", [
    ("resnet50_multi", "resnet50", {}, "layer2.0.bn3_03.running_var"),
    ("convnext_tiny_multi", "convnext_tiny", {}, "stages.2.8.norm_07.bias"),
    ("resnet20_multi", "cifar_resnet20", {}, "layer3.2.masker07.maskconv.fc.bias"),
    ("resnet32_multi", "cifar_resnet32", {"shortcut": "B"}, "layer2.0.downsample.1.weight")])
def test_the_other_architectures_load_what_their_names_say(architecture, name, kwargs, example):
    network = bdsa.create_model(name, [0.3, 0.7], num_classes=7, **kwargs)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and "downsample" not in key:  # a file has one norm there for all budgets
            torch.nn.init.normal_(value)
    own = network.state_dict()
    state = {published_name(k, {"b030": "03", "b070": "07"}): v for k, v in own.items()}
    copies = [k for k in own if "downsample" in k and "per_budget" in k]
    assert example in state and len(state) == len(own) - len(copies)
    loaded = bdsa.load_published_checkpoint({"state_dict": state}, architecture).state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[k], v) for k, v in own.items())


def test_a_single_budget_resnet_copies_its_norms_to_the_budget(resnet_case):
    network = bdsa.load_published_checkpoint(single(resnet_case), "resnet18", 10, budget=0.3)
    state = resnet_case.checkpoint["state_dict"]
    for norm in ("layer1.0.bn1", "layer3.0.bn2", "layer2.0.downsample.1"):
        mine = dict(network.get_submodule(f"{norm}.per_budget.b030").state_dict())
        assert mine.keys() == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
        assert all(torch.equal(v, state[f"{norm}.{k}"]) for k, v in mine.items())
    assert torch.equal(network.layer1[0].mask_units["b030"].fc.weight, state["layer1.0.masker03.maskconv.fc.weight"])


def test_mask_units_may_be_1x1_convolutions(resnet_case):
    names = [k for k in resnet_case.checkpoint["state_dict"] if k.endswith("maskconv.fc.weight")]
    as_convolutions = {k: resnet_case.checkpoint["state_dict"][k][:, :, None, None] for k in names}
    network = bdsa.load_published_checkpoint(changed(resnet_case, **as_convolutions), "resnet18_multi", 10)
    unit = network.layer1[1].mask_units["b050"].fc.weight
    assert torch.equal(unit, resnet_case.checkpoint["state_dict"]["layer1.1.masker05.maskconv.fc.weight"])


def test_budgets_with_two_digits_and_one(resnet_case):
    """025 is 0.25; the norms of 10 become the dense network's, which masks nothing."""
    def renamed(key: str) -> str:
        return key.replace("masker05", "masker025").replace("_05.", "_025.") \
                  .replace("masker07", "masker10").replace("_07.", "_10.")

    theirs = resnet_case.checkpoint["state_dict"]
    checkpoint = {"state_dict": {renamed(k): v for k, v in theirs.items()}}
    with pytest.warns(UserWarning, match="32 tensors of its mask units"):
        network = bdsa.load_published_checkpoint(checkpoint, "resnet18_multi", 10)
    assert network.budgets.values == (0.25, 0.3, 1.0)
    assert torch.equal(network.layer1[0].bn1.weight, theirs["layer1.0.bn1_07.weight"])
    assert torch.equal(network.layer1[0].bn1.per_budget["b025"].weight, theirs["layer1.0.bn1_05.weight"])
    assert torch.equal(network.bn1.weight, theirs["bn1.weight"])
    del checkpoint["state_dict"]["layer4.1.bn2_10.running_var"]
    with pytest.warns(UserWarning), pytest.raises(UserError, match="layer4.1.bn2_10.running_var"):
        bdsa.load_published_checkpoint(checkpoint, "resnet18_multi", 10)


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    torch.save({"state_dict": {}, "epoch": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match="could run code"):
        bdsa.load_published_checkpoint(tmp_path / "hostile.pth", "resnet18", 10, budget=0.5)
    assert not ran.exists()
    torch.load(tmp_path / "hostile.pth", weights_only=False)  # the file is really hostile
    assert ran.exists()


def test_damaged_and_missing_files(convnext_case, tmp_path):
    torch.save({"state_dict": {"norm.weight": convnext_case.checkpoint["state_dict"]["norm.weight"]}},
               tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[:len(content) // 2])
    for name, message in (("cut.pth", "damaged"), ("whole.pt", "does not exist"), ("", "folder")):
        with pytest.raises(UserError, match=message):
            bdsa.load_published_checkpoint(tmp_path / name, "convnext_tiny", 10, budget=0.5)
    with pytest.raises(UserError, match="path or a dictionary, not a list"):
        bdsa.load_published_checkpoint([1], "convnext_tiny", 10, budget=0.5)
    with pytest.raises(UserError, match="no tensors"):
        bdsa.load_published_checkpoint({0.5: torch.ones(1)}, "convnext_tiny", 10, budget=0.5)


@pytest.mark.slow
def test_wrong_arguments(resnet_case, convnext_case):
    one, multi = convnext_case.checkpoint, resnet_case.checkpoint
    for content, architecture, classes, budget, message in (
            (one, "convnext_tiny", 10, None, "give budget="),
            (one, "convnext_tiny", 10, 1.5, "outside"),
            (one, "convnext_tiny", 100, 0.5, "has 10 classes, not 100"),
            (one, "convnext_tinny", 10, 0.5, "did you mean 'convnext_tiny'"),
            (one, "convnext_tiny_multi", 10, 0.5, "single budget: name the architecture without _multi"),
            (one, "convnext_small", 10, 0.5, r"234 missing \(.*stages\.2\.10\.dwconv"),
            (one, "convnext_base", 10, 0.5, " missing"),
            (one, "resnet18", 10, 0.5, "lacks the classifier fc.weight"),
            (multi, "resnet18_multi", 10, 0.4, "no budget 0.4: its budgets are 0.3, 0.5, 0.7"),
            (multi, "resnet34_multi", 10, None, " missing"),
            (multi, "resnet50_multi", 10, None, " missing"),
            (multi, "convnext_tiny_multi", 10, None, "lacks the classifier head.weight")):
        with pytest.raises(UserError, match=message):
            bdsa.load_published_checkpoint(content, architecture, classes, budget=budget)


def test_a_deeper_file_is_not_cut_short(resnet_case):
    """Nothing that the network needs is missing in a file with one block more."""
    extra = {k.replace("layer4.1.", "layer4.2."): v for k, v in resnet_case.checkpoint["state_dict"].items()
             if k.startswith("layer4.1.")}
    with pytest.raises(UserError, match=r"54 left over \(layer4.2.conv1.weight"):
        bdsa.load_published_checkpoint(changed(resnet_case, **extra), "resnet18_multi", 10)


@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.bn1_05.running_mean", "layer2.0.downsample.1.bias",
                                  "layer4.1.masker03.maskconv.conv.bias", "fc.bias", "layer3.0.bn2.running_var"])
def test_a_missing_tensor_is_named(resnet_case, name):
    with pytest.raises(UserError, match=rf"1 missing \({re.escape(name)}\)"):
        bdsa.load_published_checkpoint(changed(resnet_case, **{name: None}), "resnet18_multi", 10)


def test_what_does_not_belong_is_named(resnet_case):
    for name in ("norms.0.weight", "layer1.0.bn1_09.weight", "layer1.0.masker.maskconv.fc.weight", "model"):
        with pytest.raises(UserError, match=rf"1 left over \({re.escape(name)}\)"):
            bdsa.load_published_checkpoint(changed(resnet_case, **{name: torch.ones(4)}), "resnet18_multi", 10)
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight is \[64, 64, 1, 9\]"):
        reshaped = resnet_case.checkpoint["state_dict"]["layer1.0.conv1.weight"].reshape(64, 64, 1, 9)
        bdsa.load_published_checkpoint(changed(resnet_case, layer1__0__conv1__weight=reshaped), "resnet18_multi", 10)
    with pytest.raises(UserError, match="no possible budget"):
        content = changed(resnet_case, layer1__0__masker99__maskconv__fc__bias=torch.ones(1))
        bdsa.load_published_checkpoint(content, "resnet18_multi", 10)


def test_a_dense_file_is_not_adaptive(resnet_case):
    dense = {k: v for k, v in resnet_case.checkpoint["state_dict"].items() if "masker" not in k}
    with pytest.raises(UserError, match="no mask units"):
        bdsa.load_published_checkpoint(dense, "resnet18", 10, budget=0.5)
