"""A setting that a command would not use is refused, in one line, before a file is read."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import run
from torch.utils.data import TensorDataset

from bdsa.commands.benchmark.gpu_latency import check_asked
from bdsa.commands.benchmark.subject import _test_images
from bdsa.commands.entry_points import benchmark, evaluate, export
from bdsa.config.benchmark import BenchmarkConfig, LatencyConfig
from bdsa.config.settings import DataConfig, RecipeConfig, TeacherConfig, TrainConfig
from bdsa.config.unused import unused
from bdsa.errors import UserError
from bdsa.models.factory import create_model
from bdsa.sparse import native
from bdsa.training.run_latency import add_latency

GONE = "checkpoint=gone.pt"


@pytest.mark.parametrize("main, arguments, expected", [
    (evaluate, ["model.weights=x.pt"], "model.weights and checkpoint=gone.pt, which says itself"),
    (evaluate, ["model.pretrained=true"], "model.pretrained and checkpoint=gone.pt"),
    (evaluate, ["precision=int8", "execution=masked"], "give precision=bfloat16"),
    (export, ["between=true"], "between=true is for format=pt2, aoti and onnx"),
    (export, ["precision=bfloat16"], "precision=bfloat16 is for format=pt2, aoti and onnx"),
    (export, ["images=3"], "images is for format=pt2, aoti and onnx"),
    (export, ["data=cifar10"], "data is for format=pt2, aoti and onnx"),
    (export, ["cascade=true"], "cascade=true is for format=pt2, aoti and onnx"),
    (export, ["budgets.targets=[0.5]"], "a safetensors file has all budgets"),
])
def test_what_has_no_effect_is_refused(tmp_path, monkeypatch, main, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = run(main, [GONE, *arguments])
    assert outcome.code == 1 and expected in outcome.err and outcome.err.strip().count("\n") == 0, outcome.err
    assert not list(tmp_path.iterdir())


def test_a_training_says_which_words_of_its_command_have_no_effect():
    config = TrainConfig(recipe=RecipeConfig(schedule="constant"), teacher=TeacherConfig("self"))
    named = {"recipe.warmup_epochs", "recipe.min_lr", "recipe.lr", "teacher.weights", "teacher.weight",
             "budgets.between"}
    assert unused(config, named) == [
        "recipe.min_lr=1e-05 has no effect with recipe.schedule=constant",
        "recipe.warmup_epochs=1.0 has no effect with recipe.schedule=constant",
        "teacher.weights=None has no effect with teacher.kind=self",
        "budgets.between=1 has no effect with budgets.schedule=round_robin"]
    assert not unused(config, {"recipe.lr", "teacher.weight"})
    with pytest.raises(UserError, match="multistep has no milestones"):
        RecipeConfig(schedule="multistep").check_rates()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_precision_whose_kernels_are_not_here_is_refused(tmp_path, monkeypatch, precision):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(native, "unavailable", lambda: "BDSA_KERNELS=off")
    outcome = run(evaluate, [GONE, f"precision={precision}", "trainer.device=cpu"])
    assert outcome.code == 1 and f"precision={precision} needs the native kernels" in outcome.err, outcome.err


def test_advice_names_no_setting_that_the_command_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(7, 64)}}, "other.pt")
    outcome = run(export, ["checkpoint=other.pt"])
    assert "other.pt is not a checkpoint of bdsa-train: bdsa-export takes no other" in outcome.err
    outcome = run(benchmark, ["what=latency", "latency.checkpoint=other.pt", "latency.peers=[eager]"])
    assert "give model=NAME model.weights=other.pt" in outcome.err and "published" not in outcome.err


def test_a_benchmark_sees_its_networks_images_as_the_training_did():
    def images(content, **data):
        config = BenchmarkConfig(latency=LatencyConfig(checkpoint="best.pt"), data=DataConfig(**data))
        network = create_model("cifar_resnet8", [0.5, 1.0], 10)
        return _test_images(config, frozenset({"latency.checkpoint", "data"}), content, network, "cifar_resnet8", 2)[0]

    trained = {"name": "cluttered_digits", "image_size": 32, "train_images": 4, "val_images": 4, "test_images": 4}
    found = images({"config": {"data": trained}}, name="cluttered_digits", image_size=40, test_images=2000)
    assert found.shape == (2, 3, 32, 32)
    with pytest.raises(UserError, match="trained with the plug-in mine.py, which is not loaded"):
        images({"config": {"data": {"name": "stripes"}, "plugins": ["mine.py"]}}, name="stripes")


@pytest.mark.parametrize("name, value", [("precision", "float32"), ("int8", True), ("profile", True),
                                         ("break_even", True), ("seconds", 1.0)])
def test_a_gpu_refuses_what_is_measured_on_a_cpu_alone(name, value):
    check_asked(LatencyConfig(precision="bfloat16"), {"latency.precision"})  # the defaults, and what it runs in
    with pytest.raises(UserError, match=f"latency.{name}={str(value).lower()} is of trainer.device=cpu"):
        check_asked(LatencyConfig(**{name: value}), {f"latency.{name}"})


@pytest.mark.parametrize("execution", ["masked", "sparse"])
def test_a_latency_is_of_the_execution_that_was_asked_for(execution):
    network = create_model("cifar_resnet8", [0.5, 1.0], 10).eval()
    results = {"rows": [{"budget": 0.5}]}
    images = TensorDataset(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    add_latency(results, network, images, torch.device("cpu"), execution)
    assert json.loads(json.dumps(results))["latency"]["execution"] == execution and results["rows"][0]["latency_ms"] > 0
