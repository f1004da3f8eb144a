"""The presets under experiments/: each is the published experiment, and runs from its command to its evaluation.

Dry runs shrink the networks by documented overrides and keep everything else of a preset: blocks, recipe,
precision, budgets, teacher. The networks at full size are only counted, on torch's meta device.
"""
from __future__ import annotations

import csv
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from command_line import run
from omegaconf import DictConfig, OmegaConf
from small_data import write_folder

import bdsa
from bdsa.budgets import Budgets
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.config.commands import EvaluateConfig
from bdsa.config.options import experiments, group_options
from bdsa.config.overrides import check_overrides
from bdsa.config.settings import TrainConfig
from bdsa.config.targets import SHIPPED, read_targets
from bdsa.config.visualize import VisualizeConfig
from bdsa.models.factory import create_dense_model
from bdsa.runs.metrics import MetricsFile
from bdsa.training.step import TrainStep

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = list(experiments())
PUBLISHED = [name for name in NAMES if name.endswith(("_single", "_multi"))]
SMALL = {"resnet": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
         "convnext": {"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]}, "cifar": {"width": 4}}
DRY = ["recipe.epochs=2", "recipe.batch_size=2", "trainer.limit_train_batches=4", "trainer.limit_eval_images=5",
       "trainer.pictures=0", "budgets.calibration_images=8", "data.workers=0", "tracker=none"]


@cache
def composed(name: str) -> DictConfig:
    """What a preset's own command sets."""
    outcome = run(train_main, [f"experiment={name}", "data.root=PATH", "--cfg", "job"])
    assert outcome.code == 0, outcome.err
    return OmegaConf.create(outcome.out)


def family(name: str) -> str:
    return re.match(r"cifar|convnext|resnet", composed(name).model.name)[0]


@cache
def settings(name: str) -> str:
    """All that a preset sets but its network's size: the models of one family that are trained alike are alike."""
    config = OmegaConf.to_container(composed(name))
    for section in ("model", "teacher"):
        config[section].pop("name")
    return json.dumps([family(name), {key: config[key] for key in sorted(config) if key not in ("name", "out")}])


@cache
def dense_macs(name: str) -> int:
    """MACs of a preset's network at full size; that it can be made adaptive is seen on the way."""
    config = composed(name)
    with torch.device("meta"):
        network = bdsa.create_model(config.model.name, config.budgets.targets)
    return network.dense_macs((32, 32) if family(name) == "cifar" else (224, 224))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"), {"train": dict.fromkeys("abc", 4),
                                                            "val": dict.fromkeys("abc", 2)}, side=70)


def dry_run(name: str, images: Path, tmp_path: Path) -> list[str]:
    """The preset's command with a shrunk network, whose weights and teacher come from local files."""
    config, kind = composed(name), family(name)
    arguments = [f"experiment={name}", f"data.root={images}", *DRY, f"out={tmp_path}", "name=run"]
    arguments += [f"+model.args.{key}={value}" for key, value in SMALL[kind].items()]
    arguments.append(f"data.image_size={32 if kind == 'cifar' else 64}")
    if config.model.pretrained:  # as without a network: a file of another data set's classes
        network = timm.create_model(config.model.name, num_classes=7, **SMALL[kind])
        torch.save(network.state_dict(), tmp_path / "start.pt")
        arguments += [f"model.weights={tmp_path}/start.pt", "model.reset_head=true"]
    if config.teacher.kind == "model":
        torch.save(timm.create_model(f"test_{kind}", num_classes=3).state_dict(), tmp_path / "teacher.pt")
        arguments += [f"teacher.name=test_{kind}", f"teacher.weights={tmp_path}/teacher.pt"]
    if config.teacher.kind == "checkpoint":
        torch.save(create_dense_model(config.teacher.name or config.model.name, num_classes=3).state_dict(),
                   tmp_path / "teacher.pt")
        arguments.append(f"teacher.weights={tmp_path}/teacher.pt")
    if config.data.held_out is not None:
        arguments.append("data.held_out=0.25")
    if config.recipe.accumulation > 1:  # so that frozen and free, warming up and falling are seen
        arguments += ["recipe.accumulation=2", "recipe.freeze_backbone_epochs=1", "recipe.warmup_epochs=1"]
    return arguments


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_trains_stops_resumes_and_evaluates_twice(name, images, tmp_path, monkeypatch):
    """Of presets that differ in their network's size alone, the first; the others train."""
    arguments, start_epoch = dry_run(name, images, tmp_path), TrainStep.start_epoch
    if any(settings(other) == settings(name) for other in NAMES[:NAMES.index(name)]):
        outcome = run(train_main, arguments)
        assert outcome.code == 0 and (tmp_path / "run/results.json").exists(), outcome.err
        return

    def stop(self, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        start_epoch(self, epoch)

    monkeypatch.setattr(TrainStep, "start_epoch", stop)
    stopped = run(train_main, arguments)
    assert stopped.code == 130 and not (tmp_path / "run/results.json").exists(), stopped.err
    monkeypatch.undo()
    outcome = run(train_main, arguments)
    assert outcome.code == 0 and "resuming after epoch 1" in outcome.out, outcome.err

    config, budgets = composed(name), Budgets(composed(name).budgets.targets)
    rows = MetricsFile(tmp_path / "run/metrics.jsonl").read()
    weights = ["raw"] if config.recipe.ema_decay is None else ["raw", "ema"]
    assert [(r["epoch"], r["weights"], r["budget"]) for r in rows if r["kind"] == "eval"] == [
        (epoch, w, b) for epoch in (1, 2) for w in weights for b in budgets]
    trained = [r for r in rows if r["kind"] == "train"]
    assert len(trained) == 2 and all(("kd" in r["loss"]) == (config.teacher.kind != "none") for r in trained)

    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [r["budget"] for r in results["rows"]] == sorted({*budgets, 1.0}) and results["weights"] == weights[-1]
    best = "best" if weights == ["raw"] else "best_ema"
    for _ in range(2):
        outcome = run(evaluate_main, [f"checkpoint={tmp_path}/run/checkpoints/{best}.pt", f"out={tmp_path}/evaluated",
                                      "trainer.limit_eval_images=5", "trainer.pictures=0"])
        assert outcome.code == 0, outcome.err
        measured = tmp_path / "evaluated/results.json"
        assert json.loads(measured.read_text())["rows"] == results["rows"]
        measured.unlink()


def test_the_list_of_published_experiments_is_complete():
    assert {name for name in NAMES if name in PUBLISHED} == {
        f"{model}_{kind}" for kind in ("single", "multi")
        for model in (*(f"imagenet_{m}" for m in rows("imagenet")), *(f"cifar10_{m}" for m in rows("cifar10")))}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_settings(name):
    config, kind, multi = composed(name), family(name), name.endswith("_multi")
    data, model = re.match(r"(\w+?)_(\w+)_(?:single|multi)", name).groups()
    budgets = [0.3, 0.5, 0.7, 0.9] if multi and kind == "convnext" else [0.3, 0.5, 0.7] if multi else [0.5]
    assert config.budgets.targets == budgets and config.data.name == "folder"
    assert (config.budgets.temperatures, config.budgets.noise_until, config.awareness.metric) == (
        [5.0, 2.5, 1.0], 0.8, "none")
    assert read_targets(data, config.model.name, Budgets(budgets)) == [rows(data)[model][f"{b:g}"] for b in budgets]
    if data == "cifar10":
        assert (config.model.name, config.model.pretrained) == (f"cifar_{model}", False)
        assert (config.teacher.kind, config.trainer.amp, config.recipe.epochs) == ("none", "none", 350)
        return
    assert config.model.name.split(".")[0] == model and config.model.pretrained
    assert config.model.name in timm.list_pretrained(f"{model}.*")
    assert (config.teacher.kind, config.teacher.name) == (("model", config.model.name) if multi else ("none", None))
    assert (config.teacher.temperature, config.teacher.weight) == (20.0, 0.01)
    assert config.trainer.amp != "none" and config.recipe.epochs == (120 if kind == "convnext" else 100)


def rows(table: str) -> dict[str, dict[str, float]]:
    """A shipped table of targets: model -> budget -> top-1, read apart from the code under test."""
    with (SHIPPED / f"{table}.csv").open() as file:
        return {line.pop("model"): {b: float(v) for b, v in line.items() if v} for line in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_and_cost_are_those_of_the_tables_and_the_formula(name):
    readme, preset = ((FOLDER / name / file).read_text() for file in ("README.md", "preset.yaml"))
    data, model = re.match(r"(\w+?)_(\w+)_(?:single|multi)", name).groups()
    given = {b: float(v) for b, v in re.findall(r"^\| ([\d.]+)(?: \(dense\))? \| ([\d.]+) % \|", readme, re.MULTILINE)}
    header = re.sub(r"\n# ", " ", preset.split("defaults:")[0])
    stated = {b.replace("dense", "1"): float(v) for v, b in re.findall(r"(\d\d\.\d\d) \(([\d.]+|dense)\)", header)}
    assert given == stated == rows(data)[model]

    config = composed(name)
    train, held = (50_000, 10_000) if data == "cifar10" else (1_281_167, 50_000)
    teacher = int(config.teacher.kind == "model")
    evaluations = len(config.budgets.targets) * (1 if config.recipe.ema_decay is None else 2)
    cost = 2 * config.recipe.epochs * dense_macs(name) * (train * (3 + teacher) + held * evaluations)
    assert f"teacher = {teacher} and evaluations = {evaluations}" in re.sub(r"\s+", " ", readme)
    for text in (readme, header, index_line(name)):
        (number,) = re.findall(r"\d\.\de\d\d\b", text)
        assert float(number) == pytest.approx(cost, rel=0.05) and number == f"{cost:.1e}".replace("e+", "e")
    command = f"bdsa-train experiment={name} data.root="
    assert command in header and f"\n    {command}" in readme


def index_line(name: str) -> str:
    (line,) = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith(f"| [{name}]")]
    return line


@pytest.mark.slow
def test_the_index_names_every_experiment_and_the_macs_of_its_network():
    index = (FOLDER / "README.md").read_text()
    for name in NAMES:
        assert f"]({name})" in index and (FOLDER / name / "README.md").is_file()
    for target in re.findall(r"\]\(([\w./]+)\)", index):
        assert (FOLDER / target).exists(), target
    for name in PUBLISHED:
        macs = dense_macs(name)
        assert (f"| {macs / 1e9:.3f} G |" if macs > 1e9 else f"| {macs / 1e6:.2f} M |") in index


@pytest.mark.slow
def test_the_options_that_the_index_names_exist():
    """Every setting and option in its code spans, by the check that precedes each command."""
    spans = re.findall(r"`([^`]+=[^`]*)`", (FOLDER / "README.md").read_text())
    sweeps = [re.sub(r"^.*?bdsa-train -m ", "bdsa-train ", t.replace("\\\n", " "), flags=re.DOTALL).split("\n")[0]
              for t in ((FOLDER / n / "README.md").read_text() for n in PUBLISHED) if "bdsa-train -m" in t]
    assert len(spans) > 30 and len(sweeps) == len(PUBLISHED) / 2
    for span in (*spans, *sweeps):
        words = [w for w in shlex.split(span) if "=" in w and not w.startswith("-")]
        words = [w for w in words if w.partition("=")[2] not in ("NAME", "FILE")]
        command = shlex.split(span)[0]
        kinds = {"bdsa-evaluate": [("evaluate", EvaluateConfig)], "bdsa-visualize": [("visualize", VisualizeConfig)],
                 "bdsa-train": [("train", TrainConfig)]}.get(command, [
                     ("train", TrainConfig), ("visualize", VisualizeConfig), ("evaluate", EvaluateConfig)])
        errors = []
        for config, schema in kinds:
            try:
                check_overrides(words, schema, group_options(config))
                break
            except bdsa.UserError as error:
                errors.append(error)
        else:
            raise AssertionError(f"{span}: {errors}")


@pytest.mark.slow
def test_a_teacher_of_other_classes_is_one_line_that_says_what_to_do(images, tmp_path):
    arguments = dry_run("imagenet_resnet18_multi", images, tmp_path)
    torch.save(timm.create_model("test_resnet", num_classes=9).state_dict(), tmp_path / "teacher.pt")
    outcome = run(train_main, arguments)
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1, outcome.err
    for part in ("9 classes", "the data 3", "teacher.weights=PATH", "teacher=self", "teacher=none"):
        assert part in outcome.err
    assert not (tmp_path / "run").exists()
    outcome = run(train_main, [*(a for a in arguments if not a.startswith("teacher")), "teacher=self",
                               "recipe.epochs=1"])
    assert outcome.code == 0, outcome.err
