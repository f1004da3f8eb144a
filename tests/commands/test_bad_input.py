"""Bad input: one clear line that names the value, the rule and the nearest right spelling; nothing written."""
from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from command_line import TINY, run

import bdsa
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A checkpoint, and files that are none."""
    from bdsa.models.checkpoints import ModelSpec, network_content, save

    folder = tmp_path_factory.mktemp("files")
    spec = ModelSpec("cifar_resnet8", 10, [0.3, 0.5])
    content = network_content(spec.build(), spec, config={"data": {
        "name": "cluttered_digits", "train_images": 10, "val_images": 10, "test_images": 10}})
    save(folder / "good.pt", content)
    content["model"]["name"] = "cifar_resnet14"
    save(folder / "other_model.pt", content)
    (folder / "cut.pt").write_bytes((folder / "good.pt").read_bytes()[:20000])
    (folder / "empty.pt").write_bytes(b"")
    with (folder / "hostile.pt").open("wb") as file:
        pickle.dump({"state_dict": Hostile(folder / "ran")}, file)
    torch.save(bdsa.create_model("cifar_resnet8", [1.0], num_classes=7).state_dict(), folder / "seven.pt")
    torch.save(bdsa.create_model("cifar_resnet8", [1.0], num_classes=10).state_dict(), folder / "eight.pt")
    (folder / "targets.csv").write_text("model,0.3\nresnet8,90\n")
    (folder / "one_class/train/cat").mkdir(parents=True)
    (folder / "one_class/val/cat").mkdir(parents=True)
    return folder


class Hostile:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    (["budgets.targets=[0.3,30]"], ["budget 30", "(0, 1]", "0.3"]),
    (["budgets.targets=[0.5,0.5]"], ["0.5", "twice"]),
    (["budgets.targets=[]"], ["empty"]),
    (["budgets=[0.5]"], ["budgets=[0.5]", "budgets.targets=[0.5]"]),
    (["budgets.targets=0.5"], ["budgets.targets", "list"]),
    (["recipe.epoch=3"], ["recipe.epoch", "recipe.epochs"]),
    (["recipe.lr=fast"], ["recipe.lr", "fast"]),
    (["modle=resnet18"], ["modle", "model"]),
    (["model=resnet81"], ["resnet81", "did you mean 'resnet18'"]),
    (["model.name=resnet81"], ["resnet81", "did you mean"]),
    (["model.name=vit_tiny_patch16_224"], ["vit_tiny_patch16_224", "cannot be adapted", "convnext"]),
    (["teacher=slef"], ["slef", "did you mean 'self'"]),
    (["teacher=resnet81"], ["resnet81", "did you mean 'resnet18"]),
    (["teacher=model"], ["teacher.name"]),
    (["teacher=model", "teacher.name=resnet81"], ["resnet81", "did you mean"]),
    (["teacher=checkpoint", "teacher.weights={files}/seven.pt"], ["teacher", "7 classes", "10"]),
    (["teacher=checkpoint", "teacher.weights={files}/eight.pt", "teacher.others=[{files}/nine.pt]"],
     ["nine.pt", "does not exist"]),
    (["teacher=checkpoint", "teacher.weights={files}/eight.pt", "teacher.others=[resnet81]"],
     ["teacher resnet81", "did you mean"]),
    (["teacher=checkpoint", "teacher.weights={files}/eight.pt", "teacher.others=['cifar_resnet8:']"],
     ["teacher.others", "cifar_resnet8:", "NAME:FILE"]),
    (["teacher=checkpoint", "teacher.weights={files}/eight.pt", "teacher.others={files}/eight.pt"],
     ["teacher.others", "is not a list"]),
    (["teacher=self", "teacher.others=[resnet18]"], ["teacher.others", "teacher=self"]),
    (["teacher.beta=2"], ["teacher.beta=2", "teacher=none"]),
    (["teacher=self", "teacher.beta=2", "recipe.mixup=0.8"], ["teacher.beta=2", "recipe.mixup"]),
    (["data=cifar11"], ["cifar11", "did you mean 'cifar10'"]),
    (["data.name=cluttered_digit"], ["cluttered_digit", "did you mean 'cluttered_digits'"]),
    (["data=folder", "data.root={files}/nowhere"], ["nowhere"]),
    (["data=folder", "data.root={files}"], ["train"]),
    (["data=folder", "data.root={files}/one_class"], ["one_class"]),
    (["awareness=l1"], ["awareness.targets"]),
    (["awareness=l1", "awareness.targets={files}/targets.csv"], ["targets.csv", "resnet8", "0.5"]),
    (["awareness=l1", "awareness.targets=imagnet"], ["did you mean 'imagenet'"]),
    (["model=convnext_tiny", "data.image_size=24"], ["image size 24", "32"]),
    (["recipe.optimizer=adamv"], ["adamv", "did you mean"]),
    (["recipe.optimizer=sgd", "recipe.momentum=0"], ["recipe.optimizer=sgd", "recipe.momentum=0", "cannot be made"]),
    (["recipe.optimizer=adahessian"], ["adahessian", "second derivatives"]),
    (["recipe.schedule=multistep", "recipe.milestones=[20,10]"], ["recipe.milestones", "ascend", "[10.0, 20.0]"]),
    (["recipe.lr=1e-6"], ["recipe.min_lr=1e-05", "recipe.lr=1e-06"]),
    (["model.weights={files}/missing.pt"], ["missing.pt", "does not exist"]),
    (["model.weights={files}/cut.pt"], ["cut.pt", "damaged"]),
    (["model.weights={files}/hostile.pt"], ["hostile.pt", "refused"]),
    (["model.weights={files}/seven.pt"], ["7 classes", "10", "reset_head"]),
    (["model=cifar_resnet14", "model.weights={files}/seven.pt", "model.reset_head=true"], ["missing", "layer1.1"]),
    (["trainer.device=cuda:0"], ["cuda"]),
    (["recipe.mixup=0.8", "recipe.batch_size=15"], ["recipe.batch_size=15", "odd", "16"]),
    (["recipe.cutmix=-1"], ["recipe.cutmix=-1", "from 0 to"]),
    (["recipe.ema_decay=1.0"], ["recipe.ema_decay=1.0", "below 1"]),
    (["recipe.backbone_lr_scale=0"], ["recipe.backbone_lr_scale=0", "above zero"]),
    (["recipe.drop_path=1.5"], ["recipe.drop_path=1.5", "from 0 to 0.999"]),
    (["recipe.drop_path=0.1", "+model.args.drop_path_rate=0.2"], ["recipe.drop_path", "drop_path_rate=0.2"]),
    (["trainer.amp=bfloat"], ["bfloat", "did you mean 'bfloat16'"]),
    (["data.rand_augment=rand-m9-mstdd0.5"], ["rand-m9-mstdd0.5", "'mstdd0.5'", "rand-m9-mstd0.5-inc1"]),
    (["data.rand_augment=autoaugment"], ["'autoaugment'", "rand-m9-mstd0.5-inc1"]),
    (["data.random_erasing=25"], ["data.random_erasing=25", "from 0 to 1"]),
    (["recipe.accumulation=7"], ["recipe.accumulation=7", "6 batches", "give 6"]),
    (["recipe.accumulation=3", "trainer.limit_train_batches=2"], ["2 batches"]),
    (["recipe.batch_size=9999"], ["9999", "96"]),
])
def test_training(files, tmp_path, arguments, expected):
    if arguments == ["trainer.device=cuda:0"] and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    base = [t for t in TINY if not any(t.split("=")[0] == a.split("=")[0] for a in arguments)]
    if "data=folder" in arguments:
        base = [t for t in base if not t.startswith("data.")]
    outcome = run(train_main, [*base, f"out={tmp_path / 'runs'}", *(a.format(files=files) for a in arguments)])
    check(outcome, expected)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not (files / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    ([], ["checkpoint=PATH"]),
    (["checkpoint={files}/good.pt", "budgets.targets=[0.2]"], ["0.2 is below 0.3", "extrapolate"]),
    (["checkpoint={files}/good.pt", "budgets.targets=[0.5:0.3:0.1]"], ["0.5:0.3:0.1 is no range", "FIRST:LAST:STEP"]),
    (["checkpoint={files}/good.pt", "budgets.targets=[0.5:1:0]"], ["0.5:1:0 is no range", "FIRST:LAST:STEP"]),
    (["checkpoint={files}/good.pt", "recipe=quickstart"], ["recipe", "there are", "checkpoint"]),
    (["checkpoint={files}/good.pt", "split=tset"], ["tset", "did you mean 'test'"]),
    (["checkpoint={files}/god.pt"], ["god.pt", "good.pt"]),
    (["checkpoint={files}/cut.pt"], ["cut.pt", "damaged"]),
    (["checkpoint={files}/empty.pt"], ["empty.pt"]),
    (["checkpoint={files}/hostile.pt"], ["hostile.pt", "refused"]),
    (["checkpoint={files}/other_model.pt"], ["other_model.pt", "missing"]),
    (["checkpoint={files}/seven.pt"], ["seven.pt", "not a checkpoint of bdsa-train"]),
    (["model=cifar_resnet8", "model.weights={files}/seven.pt", "data=cluttered_digits"], ["7 classes", "10"]),
    (["model=cifar_resnet8", "data=cluttered_digits"], ["no weights"]),
    (["model=cifar_resnet8", "model.weights={files}/seven.pt"], ["which data"]),
])
def test_evaluation(files, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = run(evaluate_main, [a.format(files=files) for a in arguments])
    check(outcome, expected)
    assert not list(tmp_path.rglob("results.json")) and not (files / "ran").exists()


def check(outcome, expected: list[str]) -> None:
    assert outcome.code == 1, outcome.out
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), outcome.err
    for text in expected:
        assert text in lines[0]
