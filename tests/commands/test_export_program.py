"""A sparse network for other programs: each form gives Python's logits on real images, in Python and in C++ alone."""
from __future__ import annotations

import json
import os
import runpy
import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch
from command_line import run
from sparse_cases import BUDGETS, images_of, network_of
from torch import nn

import bdsa
from bdsa.commands import export_program
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.hosts import HOSTS, not_installed
from bdsa.config.names import FORMATS
from bdsa.config.settings import DataConfig
from bdsa.data.datasets import create_splits, get_split
from bdsa.sparse import native
from bdsa.sparse.program import program_of

ROOT = Path(__file__).parents[2]
DATA = ["data=cluttered_digits", "data.image_size=32", "data.train_images=10", "data.val_images=10",
        "data.test_images=12"]
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "network.safetensors"
    bdsa.save(network_of("cifar_resnet8"), path)
    return path


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    splits = create_splits(DataConfig(name="cluttered_digits", image_size=32, train_images=10, val_images=10,
                                      test_images=12))
    dataset = get_split(splits, splits.reported)
    return torch.stack([dataset[i][0] for i in range(4)])


@pytest.fixture(scope="module", params=list(HOSTS))
def exported(stored, request) -> tuple[str, Path, str]:
    """A form, its file, and what the command said."""
    if lacking := not_installed(HOSTS[request.param].needs):
        pytest.skip(f"needs {lacking}")
    path = stored.parent / request.param / f"network{FORMATS[request.param]}"
    further = [] if request.param == "pt2" else ["per_image=true"]
    outcome = run(export_main, [f"checkpoint={stored}", f"format={request.param}", f"out={path}", "images=6", *DATA,
                                *further])
    assert outcome.code == 0, outcome.err
    return request.param, path, outcome.out


def expected(stored: Path, images: torch.Tensor, budget: float, exact: bool = False) -> torch.Tensor:
    network = bdsa.load(stored)
    network.execution = "sparse"
    with torch.inference_mode():
        return network(images, budget=budget, per_image=exact)


def test_the_file_runs_at_any_budget_batch_and_size(stored, images, exported) -> None:
    form, path, said = exported
    assert "logits as in Python on 6 images: at most 0.0e+00" in said and "speedup over dense" in said
    exactly = form != "pt2"
    assert f"budgets 0.4, 0.7, 1,{' as a mean or of each image,' * exactly} float32" in said and f"{path}  (" in said
    assert ("of each image\n" in said) == exactly
    runner = HOSTS[form].load(path)
    for budget, further in product((*BUDGETS, 1.0), ([False], [True]) if exactly else ([],)):
        for x in (images, images[:1], torch.nn.functional.interpolate(images[:3], size=(40, 56))):
            assert torch.equal(runner(x, budget, *further), expected(stored, x, budget, any(further)))
    if form == "onnx":  # where the input may be missing
        assert torch.equal(runner(images, 0.4), expected(stored, images, 0.4))
    with pytest.raises(Exception, match=r"budget 0.5 is not in this program, which has 0.4, 0.7, 1"):
        runner(images, 0.5, *further)


def test_a_program_in_cpp_gives_the_logits_of_python(stored, images, exported, tmp_path) -> None:
    form, path, _ = exported
    if form == "pt2":  # for Python alone; it says what it is as the others do
        torch.export.load(path, extra_files=(said := {"bdsa.json": ""}))
        assert json.loads(said["bdsa.json"]) == {"budgets": [0.4, 0.7, 1.0], "between": None, "classes": 10,
                                                 "precision": "float32"}
        return
    libraries = [path.parent / f"bdsa_{'onnx' if form == 'onnx' else 'torch'}.so"]
    program = runpy.run_path(str(ROOT / "examples/cpp/speed.py"))["built"](form, tmp_path)
    images[:3].numpy().tofile(tmp_path / "images.f32")
    command = [program, path, *libraries, tmp_path / "images.f32", 3, 3, 32, 32]
    for budget, exact in product(BUDGETS, (0, 1)):
        done = ran([*command, budget, exact])
        assert done.returncode == 0, done.stderr
        found = torch.tensor([[float(value) for value in line.split()] for line in done.stdout.splitlines()])
        assert (found - expected(stored, images[:3], budget, bool(exact))).abs().max() < 1e-4
        assert float(done.stderr.split()[-2]) > 0 and done.stderr.endswith(" ms\n")
    failed = ran([*command, 0.5, *([1] if form == "aoti" else [])])
    assert failed.returncode == 1 and "budget 0.5 is not in this program" in failed.stderr


def test_a_cascade_leaves_python_as_one_file(images, tmp_path) -> None:
    network = network_of("cifar_resnet8")
    bdsa.calibrate_confidence(network, [images_of((24, 32, 32))])
    bdsa.save(network, tmp_path / "network.safetensors")
    path = tmp_path / "cascade.pt2"
    outcome = run(export_main, [f"checkpoint={tmp_path}/network.safetensors", "format=pt2", f"out={path}", "images=6",
                                "cascade=true", "budgets.targets=[0.5,0.6,1]", *DATA])
    assert outcome.code == 0 and "at most 0.0e+00" in outcome.out and "the mean of 6, " in outcome.out, outcome.err
    assert "budgets 0.5, 0.6, 1, any from 0.4 to 1, as a mean by a second look at unsure images, " in outcome.out
    torch.export.load(path, extra_files=(said := {"bdsa.json": ""}))
    assert json.loads(said["bdsa.json"])["cascade"] is True
    runner, network.execution = HOSTS["pt2"].load(path), "sparse"
    with torch.inference_mode():
        for budget in (0.45, 0.7, 1.0):
            assert torch.equal(runner(images, budget), network(images, budget=budget, cascade=True))
    with pytest.raises(Exception, match="budget 0.2 is none of this cascade"):
        runner(images, 0.2)


def test_an_exported_network_that_is_slower_than_the_dense_one_is_said(stored, images, monkeypatch, capsys) -> None:
    monkeypatch.setattr(export_program, "time_engines", lambda engines, *_, **__: {
        name: [{"dense": 0.58, "0.4": 0.92}.get(name, 0.5)] for name in engines})
    network = bdsa.load(stored)
    export_program._print_speed("pt2", program_of(network), network, images, lambda x, budget: x)
    said = capsys.readouterr().out
    assert "at budget 0.4 the exported network is slower than the dense one: 0.92 ms against 0.58 ms" in said
    assert said.count("slower") == 1


def ran(command: list) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_torch_compile_breaks_no_graph(images) -> None:
    network = network_of("cifar_resnet8")
    network.execution = "sparse"
    with torch.inference_mode():  # which the program need not know of
        module, exact = bdsa.portable(network, [0.4]), bdsa.portable(network, [0.4], per_image=True)
    compiled = torch.compile(module, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for x in (images, images[:2]):
            assert torch.equal(compiled(x, torch.tensor(0.4)), module(x, torch.tensor(0.4)))
            assert torch.equal(exact(x, torch.tensor(0.4)), compiled(x, torch.tensor(0.4), torch.tensor(True)))
            assert torch.equal(exact(x, torch.tensor(0.4)), network(x, budget=0.4, per_image=True))


def test_a_compiled_sparse_network_is_one_node_that_follows_weights_and_budget(images) -> None:
    networks = [network_of("cifar_resnet8"), network_of("cifar_resnet8")]
    with torch.no_grad():
        networks[1].conv1.weight.mul_(2)
        for network in networks:  # dynamo keeps graphs by the code that they share
            network.execution = "sparse"
            compiled = torch.compile(nn.Sequential(network, nn.Softmax(1)), fullgraph=True, backend="eager")
            for _ in range(2):
                with network.at_budget(0.4):
                    assert torch.equal(compiled(images), network(images, budget=0.4).softmax(1))
                network.conv1.weight.mul_(1.1)
            assert torch.equal(torch.compile(network, fullgraph=True, backend="eager")(images, budget=0.4),
                               network(images, budget=0.4))


def test_a_compiled_backbone_runs_as_without_it(images) -> None:
    backbone = bdsa.create_model("resnet18", BUDGETS, features_only=True).eval()
    backbone.execution = "sparse"
    compiled = torch.compile(nn.Sequential(nn.Identity(), backbone), backend="eager")
    with torch.inference_mode(), backbone.at_budget(0.4):
        assert all(map(torch.equal, compiled(images), backbone(images)))
    with pytest.raises(bdsa.UserError, match="that gives logits, not of a FeatureNetwork"):
        bdsa.portable(backbone)


def test_torch_export_takes_a_sparse_network_as_it_is(images) -> None:
    network = network_of("cifar_resnet8")
    network.execution = "sparse"
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    asked = torch.export.export(network, (images, torch.tensor(0.4)), dynamic_shapes={"x": sizes, "budget": {}})
    fixed = torch.export.export(network, (images,), {"budget": 0.4})
    with torch.inference_mode():
        for x in (images, torch.rand(3, 3, 40, 24)):
            for budget in (0.4, 1.0):
                assert torch.equal(asked.module()(x, torch.tensor(budget)), network(x, budget=budget))
        assert torch.equal(fixed.module()(images, budget=0.4), network(images, budget=0.4))
        either = torch.export.export(network, (images,), {"budget": 0.4, "per_image": torch.tensor(True)}).module()
        for exact in (False, True):
            assert torch.equal(either(images, budget=0.4, per_image=torch.tensor(exact)),
                               network(images, budget=0.4, per_image=exact))
        with network.at_budget(0.4, per_image=True):
            assert torch.equal(torch.export.export(network, (images,)).module()(images), network(images))
    assert [str(node.target) for node in fixed.graph.nodes if "bdsa" in str(node.target)] == ["bdsa.network.default"]
    with pytest.raises(Exception, match="bdsa.portable"):
        torch.export.export(network, (images,), {"budget": 0.4}, strict=True)


def test_a_masked_export_knows_exact_budgets_at_one_size(images) -> None:
    network = network_of("cifar_resnet8")
    asked, batch = {"budget": 0.4, "per_image": True}, {"x": {0: torch.export.Dim("batch")}, "budget": None}
    with torch.no_grad():
        exported = torch.export.export(network, (images,), asked, dynamic_shapes={**batch, "per_image": None})
        assert torch.equal(exported.module()(images[:3], **asked), network(images[:3], **asked))
    with pytest.raises(bdsa.UserError, match="needs images of one height and width"):
        torch.export.export(network, (images,), asked, dynamic_shapes={
            "x": {2: torch.export.Dim("height")}, "budget": None, "per_image": None})
    with pytest.raises(bdsa.UserError, match="per_image is no input of a masked network's export"):
        torch.export.export(network, (images,), {"budget": 0.4, "per_image": torch.tensor(True)})


@pytest.mark.parametrize("arguments, message", [
    (["format=onx"], "did you mean 'onnx'"),
    (["format=onnx", "out=net.pt2"], "must end in .onnx"),
    (["format=pt2", "budgets.targets=[0.5]", *DATA[:1]], "its curves are missing"),
    (["format=pt2"], "which data? give data=cluttered_digits"),
    (["budgets.targets=[0.4]"], "budgets.targets is for format=pt2, aoti and onnx"),
    (["per_image=true"], "per_image=true is for format=pt2, aoti and onnx"),
    (["cascade=true"], "cascade=true is for format=pt2, aoti and onnx"),
    (["format=pt2", "cascade=true", "per_image=true"], "which per_image=true contradicts"),
    (["format=pt2", "cascade=true", *DATA[:1]], "bdsa-evaluate cascade=true, measures it"),
    (["format=onnx", "precision=auto"], "precision"),
    (["format=onnx", "images=0"], "images"),
])
def test_bad_input_is_one_line(stored, arguments, message) -> None:
    outcome = run(export_main, [f"checkpoint={stored}", *DATA[1:], *arguments])
    assert outcome.code == 1 and message in outcome.err and outcome.err.strip().count("\n") == 0, outcome.err
    assert sorted(path.name for path in stored.parent.iterdir() if path.is_file()) == [stored.name]
