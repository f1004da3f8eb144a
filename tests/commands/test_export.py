"""One file to deploy: it gives the same numbers as the checkpoint, and says what it is and nothing of the machine."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import TINY, run
from safetensors import safe_open

import bdsa
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import train as train_main
from bdsa.models.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    teacher = folder.parent / "teacher.pt"
    torch.save(bdsa.create_model("cifar_resnet8", [1.0], num_classes=10).state_dict(), teacher)
    outcome = run(train_main, [*TINY, f"out={folder.parent}", f"name={folder.name}", "recipe.epochs=1",
                               "budgets.targets=[0.4,0.8]", "model.mask_norm=batch", "budgets.control_gain=2",
                               "model.submanifold=true", f"teacher={teacher}", "teacher.beta=2",
                               f"teacher.others=[cifar_resnet8:{teacher}]"])
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def exported(trained) -> Path:
    path = trained.parent / "deployed" / "net.safetensors"
    outcome = run(export_main, [f"checkpoint={trained}/checkpoints/best.pt", f"out={path}",
                                "attribution='after someone, MIT'"])
    assert outcome.code == 0, outcome.err
    assert "budgets 0.4, 0.8" in outcome.out and "not calibrated" not in outcome.out
    return path


def test_evaluation_of_the_file_repeats_the_training(trained, exported):
    outcome = run(evaluate_main, [f"checkpoint={exported}", f"out={exported.parent}",
                                  "trainer.eval_batch_size=20", "execution=masked"])  # as in training: sums round alike
    assert outcome.code == 0, outcome.err
    rows = [json.loads((f / "results.json").read_text())["rows"] for f in (exported.parent, trained)]
    assert rows[0] == rows[1]


def test_the_file_loads_in_one_line_with_the_same_masks(trained, exported):
    x = torch.randn(2, 3, 32, 32)
    networks = [bdsa.load(p) for p in (exported, trained / "checkpoints/best.pt")]
    with torch.inference_mode():
        (a, used), (b, also) = (n(x, budget=0.4, return_usage=True) for n in networks)
    assert torch.equal(a, b) and torch.equal(used.conditional_fraction, also.conditional_fraction)
    assert not networks[0].training


def test_it_says_what_it_is_and_nothing_of_the_machine(trained, exported):
    with safe_open(exported, framework="pt") as file:
        stated = file.metadata()["bdsa"]
    assert str(trained.parent) not in stated
    content = json.loads(stated)
    assert content["attribution"] == "after someone, MIT" and content["model"]["mask_norm"] == "batch"
    assert content["model"]["submanifold"] is True
    assert content["config"]["teacher"]["others"] == ["cifar_resnet8:teacher.pt"]
    assert content["config"]["recipe"]["epochs"] == 1 and content["results"]["rows"][0]["budget"] == 0.4


def test_a_training_goes_on_from_the_file_with_some_of_its_budgets(trained, exported):
    command = [*TINY, f"out={trained.parent}", "recipe.epochs=1", "recipe.lr=1e-12", "recipe.schedule=constant",
               "budgets.targets=[0.8]",
               "model.mask_norm=batch", "model.submanifold=true", "recipe.weight_decay=0", "budgets.calibrate=false"]
    outcome = run(train_main, [*command, "name=on", f"model.start={exported}"])
    assert outcome.code == 0, outcome.err
    assert run(export_main, [f"checkpoint={trained.parent}/on/checkpoints/best.pt"]).code == 0
    stated = read_checkpoint(trained.parent / "on/checkpoints/best.safetensors")["config"]["model"]
    assert stated["start"] == exported.name  # and not its folder on this machine
    x = torch.randn(2, 3, 32, 32)
    on, before = bdsa.load(trained.parent / "on/checkpoints/best.pt"), bdsa.load(exported)
    assert list(on.budgets) == [0.8]
    assert torch.allclose(on.conv1.weight, before.conv1.weight, atol=1e-6) and on(x, budget=0.8).shape == (2, 10)
    for bad, said in ((["model.norm_affine=shared"], "has norm_affine=separate, this run asks for shared"),
                      (["model.mask_norm=none"], "has mask_norm=batch, this run asks for none"),
                      (["model.pretrained=true"], "leave out model.pretrained")):
        outcome = run(train_main, [*command, "name=bad", f"model.start={exported}", *bad])
        assert outcome.code == 1 and said in outcome.err, outcome.err


@pytest.mark.parametrize("arguments, message", [
    ([], "needs checkpoint=PATH"),
    (["checkpoint={run}/checkpoints/bets.pt"], "did you mean 'best.pt'"),
    (["checkpoint={run}/checkpoints/best.pt", "out={run}/net.pt"], "must end in .safetensors"),
])
def test_bad_input_is_one_line(trained, arguments, message):
    outcome = run(export_main, [a.format(run=trained) for a in arguments])
    assert outcome.code == 1 and message in outcome.err and outcome.err.strip().count("\n") == 0
