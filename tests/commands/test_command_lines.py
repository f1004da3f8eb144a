"""Command lines that no option, path or number of the kind can have: one line, exit code 1, and nothing made."""
from __future__ import annotations

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from command_line import TINY, run
from omegaconf import OmegaConf

from bdsa.commands.compare import main as compare_main
from bdsa.commands.entry_points import evaluate, export, train, visualize
from bdsa.commands.launch import flags_first
from bdsa.commands.report import main as report_main
from bdsa.commands.targets import main as targets_main
from bdsa.config.loaded import LOADED
from bdsa.config.options import shipped_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with a file in it, beside a place that must stay as it is."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("mine")
    (home / "ends.py").write_text("raise SystemExit(0)\n")
    (home / "stops.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.chdir(home)
    return home


def refused(outcome, *said: str) -> None:
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert outcome.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), (outcome.code, outcome.err)
    for text in said:
        assert text in lines[0], lines[0]


@pytest.mark.parametrize("argument, said", [
    ("recipe.momentum=nan", "recipe.momentum=nan"), ("recipe.clip_grad=-1", "above zero"),
    ("budgets.noise_until=nan", "not a finite number"), ("budgets.anneal=-1", "budgets.anneal=-1"),
    ("trainer.threads=0", "trainer.threads=0"), ("trainer.seed=99999999999999999999", "from 0 to"),
    ("trainer.limit_eval_images=0", "above zero"), ("trainer.limit_train_batches=0", "above zero"),
    ("data.rand_augment=rand-m9-n99999", "n is at most 20"), ("data.rand_augment=rand-m999", "m is at most 100"),
    ("recipe.lr=1e400", "not a finite number"), ("recipe.lr=", "recipe.lr"),
    ("~recipe.lr", "leave recipe.lr out for its default"), ("~recipe", "leave recipe out"),
    ("~recipe.epoch", "did you mean 'recipe.epochs'"),
    ("recipe.lr=${recipe.lr}", "recipe.lr: Recursive"), ("recipe.lr=${nope}", "'nope' not found"),
    ("recipe.lr=${env:HOME}", "recipe.lr"), ("recipe.lr=1,2", "recipe.lr=1,2"), ("recipe=null", "no option of recipe"),
    ("budgets.targets=0.5", "budgets.targets=0.5 is not a list: write budgets.targets=[0.5]"),
    ("budgets.targets={a:1}", "not a list"), ("tracker.tags=first", "write tracker.tags=[first]"),
    ("plugins=[ends.py]", "ends.py, line 1: SystemExit"), ("plugins=[stops.py]", "stops.py, line 1: KeyboardInterrupt"),
    ("trainer.device=cuda:x", "did you mean 'cuda:0'"), ("hydra.foo=1", "hydra.foo"), ("foo", "'foo'"),
    ("--foo", "--foo"), ("-x", "-x"), ("--cfg=nope", "nope"),
    ("out=", "out= is empty"), ("out=file", "out=file is a file"), ("out=file/below", "below file, which is a file"),
    (f"out={'n' * 256}", "256 bytes"), ("name=", "name= is empty"), ("name=../x", "name=../x"), ("name=..", "name=.."),
    ("name=/abs/x", "inside out="), (f"name='{'ä' * 128}'", "256 bytes"), ("hydra.run.dir=file", "file: File exists"),
    ("hydra.run.dir=", "no run made it"),
])
def test_a_training_refuses_it_before_any_work(folder, argument, said):
    before = sorted(folder.parent.rglob("*"))
    own = [] if argument.startswith(("out", "hydra.run")) else ["out=runs"]
    refused(run(train, [*own, argument, "tracker=none"]), said)
    assert sorted(folder.parent.rglob("*")) == before and not LOADED


@pytest.mark.parametrize("main, arguments", [
    (evaluate, ["checkpoint=file"]), (export, ["checkpoint=file"]), (visualize, ["checkpoint=file"]),
    (report_main, ["."]), (targets_main, ["."]), (compare_main, [".", "."])])
@pytest.mark.parametrize("value, said", [("", "out= is empty"), ("n" * 300 + "/x", "300 bytes"),
                                         ("file/below.md", "below file, which is a file")])
def test_every_command_checks_where_it_writes(folder, main, arguments, value, said):
    refused(run(main, [*arguments, f"out={value}"]), said)


@pytest.mark.parametrize("arguments", [["out=[1"], ["out=${nope}"], ["title=${title}"], ["budgets={a:1}"], ["-x"]])
def test_commands_of_folders_say_it_in_a_line_too(folder, arguments):
    refused(run(report_main, [".", *arguments]))


def test_a_name_made_from_too_many_budgets_asks_for_one(folder):
    budgets = ",".join(f"0.{i:03d}" for i in range(100, 160))
    refused(run(train, [f"budgets.targets=[{budgets}]"]), "longer than 255 bytes", "give name=")


def test_a_wrong_command_leaves_the_users_empty_folders(folder):
    Path("runs/mine").mkdir(parents=True)
    refused(run(train, ["out=runs", "name=mine", "recipe.lr=-1"]), "recipe.lr")
    refused(run(train, ["out=runs", "name=mine/inner", "recipe.lr=-1"]), "recipe.lr")
    assert [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_dir()] == [Path("runs"), Path("runs/mine")]
    outcome = run(train, ["-m", "out=runs", "name=other", "recipe.lr=-1", "tracker=none"])
    assert outcome.code == 1 and os.listdir("runs/mine") == []


def test_a_sweep_says_a_wrong_path_or_reference_in_a_line(folder):
    for argument, said in (("name=../x", "name=../x"), ("recipe.lr=${recipe.lr}", "Recursive"),
                           ("out=file", "is a file")):
        outcome = run(train, ["-m", *TINY, argument, "trainer.seed=0,1"])
        assert outcome.code == 1 and "Traceback" not in outcome.err
        assert outcome.err.startswith("error: ") and said in outcome.err.splitlines()[0]
    assert not (folder.parent / "x").exists()


@pytest.mark.parametrize("arguments", [["recipe.lr=0.25", "--cfg", "job", "model=cifar_resnet8"],
                                       ["recipe.lr=0.25", "model=cifar_resnet8", "-c", "job"],
                                       ["recipe.lr=0.25", "--cfg=job", "model=cifar_resnet8", "--resolve"]])
def test_flags_may_stand_anywhere(folder, arguments):
    outcome = run(train, arguments)
    assert outcome.code == 0 and "lr: 0.25" in outcome.out and "name: cifar_resnet8" in outcome.out, outcome.err
    assert flags_first(["a=1", "-m", "b=1,2"]) == ["-m", "a=1", "b=1,2"]


@pytest.mark.parametrize("name", ["train", "evaluate", "visualize", "export", "benchmark", "pipeline", "targets",
                                  "report", "compare"])
def test_a_shell_takes_every_example_of_the_help(name):
    """What stands behind an example, after two blanks, says what it does."""
    conf = shipped_folder("conf") / f"{name}.yaml"
    text = OmegaConf.load(conf).hydra.help.template if conf.exists() else \
        import_module(f"bdsa.commands.{name}").HELP
    examples = [re.split(" {2,}", line.strip())[0] for line in text.splitlines() if line.startswith("  bdsa-")]
    done = subprocess.run(["bash", "-n"], input="\n".join(examples), capture_output=True, text=True)
    assert examples and done.returncode == 0, done.stderr
