"""A user's own model, data set, awareness metric and recipe, from a folder outside the package.

The blocks of docs/plugins.md are fenced as py, yaml and sh, so that tests of other code and commands leave them alone.
"""
from __future__ import annotations

import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm.models._registry as timm_registry
import torch
from command_line import TINY, run
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import bdsa
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import train as train_main
from bdsa.commands.entry_points import visualize as visualize_main
from bdsa.config import plugins
from bdsa.data import registry
from bdsa.method.awareness import METRICS
from bdsa.models import registration
from bdsa.models.checkpoints import read_checkpoint
from bdsa.runs.metrics import MetricsFile
from bdsa.runs.name import run_name

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
BLOCKS = dict(re.findall(r"<!-- plug-in: (\S+) -->\n```(?:py|yaml|sh)\n(.*?)```", PAGE, re.DOTALL))
MAINS = {"bdsa-train": train_main, "bdsa-evaluate": evaluate_main, "bdsa-visualize": visualize_main,
         "bdsa-export": export_main}
SMALL = [a for a in TINY if not a.startswith(("model", "data."))] + [
    "data.train_images=32", "recipe.epochs=2", "budgets.targets=[0.3,0.7]"]
TABLES = (plugins.LOADED, registry._ENTRIES, METRICS, timm_registry._model_entrypoints,
          timm_registry._model_to_module)


@contextmanager
def as_a_process_of_its_own() -> Iterator[None]:
    """What plug-ins bring is forgotten at the end."""
    before = [dict(table) for table in TABLES]
    own = list(registration.OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.INHERITED, "")
        patch.delenv(plugins.VARIABLE, raising=False)
        yield
    for group, name in (pair for brought in plugins.LOADED.values() for pair in brought):
        del ConfigStore.instance().repo[group][f"{name}.yaml"]
    for table, kept in zip(TABLES, before):
        table.clear()
        table.update(kept)
    registration.OWN[:] = own
    for name in [name for name in sys.modules if name.startswith("bdsa.config.plugged.")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with as_a_process_of_its_own():
        yield


def commands() -> dict[str, list[str]]:
    """The page's command lines by their first word."""
    return {words[0]: words[1:] for words in map(shlex.split, BLOCKS["commands"].splitlines())}


def call(name: str, *more: str, leave_out: str = "nothing"):
    return run(MAINS[name], [*(a for a in commands()[name] if not a.startswith(leave_out)), *more])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the page's plug-in, and the run of its training."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("mine/model.py", "mine/data.py", "mine/awareness.py", "mine/conf/recipe/mine.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(BLOCKS[name])
        assert 3 <= len(BLOCKS[name].splitlines()) <= 13
    (folder / "mine/targets.csv").write_text("model,0.3,0.7\nslim_resnet,95,90\n")
    with pytest.MonkeyPatch.context() as patch, as_a_process_of_its_own():
        patch.chdir(folder)
        outcome = call("bdsa-train", *SMALL, "name=NAME")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.mark.slow
def test_the_pages_model_data_awareness_and_recipe_train(home):
    results = json.loads((home / "runs/NAME/results.json").read_text())
    assert (results["model"], results["data"], results["classes"]) == ("slim_resnet", "stripes", 2)
    config = OmegaConf.load(home / "runs/NAME/config.yaml")
    assert (config.recipe.lr, config.recipe.label_smoothing, config.recipe.weight_decay) == (1e-3, 0.1, 0.05)
    assert config.plugins == [str(home / "mine")]
    rows = MetricsFile(home / "runs/NAME/metrics.jsonl").read()
    top1 = [r["top1"] for r in rows if r["kind"] == "eval" and r["epoch"] == 1]
    gaps = [max(0, target - now) ** 3 for now, target in zip(top1, (95, 90))]
    assert [r for r in rows if r["kind"] == "train"][1]["weight"] == pytest.approx(
        dict(zip(("b030", "b070"), [2 * g / sum(gaps) for g in gaps])))


@pytest.mark.slow
def test_the_pages_other_commands_and_code_open_the_run(home, monkeypatch):
    monkeypatch.chdir(home)
    assert "this run is finished" in call("bdsa-train", *SMALL, "name=NAME").out
    for name in ("bdsa-evaluate", "bdsa-visualize", "bdsa-export"):
        outcome = call(name)
        assert outcome.code == 0, outcome.err
    measured = json.loads((home / "runs/NAME/evaluations/best-stripes-test/results.json").read_text())
    assert measured["rows"] == json.loads((home / "runs/NAME/results.json").read_text())["rows"]
    exported = read_checkpoint("network.safetensors")
    assert exported["config"]["plugins"] == ["mine"] and exported["config"]["awareness"]["metric"] == "cubed"
    network, checkpoint = (bdsa.load(p).eval() for p in ("network.safetensors", "runs/NAME/checkpoints/best.pt"))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images, budget=0.3), checkpoint(images, budget=0.3))


@pytest.mark.slow
def test_a_command_without_the_plug_in_says_which_and_runs_nothing(home, monkeypatch):
    monkeypatch.chdir(home)
    for name in ("bdsa-evaluate", "bdsa-visualize", "bdsa-export"):
        outcome = call(name, leave_out="plugins")
        assert outcome.code == 1 and len(outcome.err.splitlines()) == 1, outcome.err
        assert "best.pt was trained with the plug-in" in outcome.err and f"plugins=[{home / 'mine'}]" in outcome.err
    with pytest.raises(bdsa.UserError, match="bdsa.load_plugins"):
        bdsa.load("runs/NAME/checkpoints/best.pt")
    bdsa.load_plugins("mine")
    assert bdsa.load("runs/NAME/checkpoints/best.pt").budgets.values == (0.3, 0.7)


@pytest.mark.slow
def test_a_plug_in_of_the_environment_is_recorded_too_and_its_place_is_no_part_of_the_name(home, tmp_path, monkeypatch):
    def composed(*plugged: str):
        with as_a_process_of_its_own():
            monkeypatch.setenv(plugins.VARIABLE, str(home / "mine"))
            outcome = run(train_main, [*plugged, *SMALL, "--cfg", "job"])
        assert outcome.code == 0, outcome.err
        return OmegaConf.create(outcome.out)

    shutil.copytree(home / "mine", tmp_path / "mine")
    (tmp_path / "other.py").write_text("")
    first, moved, other = composed(), composed("plugins=mine"), composed("plugins=[mine,other.py]")
    assert [c.plugins for c in (first, moved, other)] == [
        [str(home / "mine")], [str(tmp_path / "mine")], [str(tmp_path / "mine"), str(tmp_path / "other.py")]]
    assert run_name(_root_=first) == run_name(_root_=moved) != run_name(_root_=other)


OWN_CLASS = """
import bdsa
from torch import nn
from timm.models.resnet import BasicBlock
{more}
class Tower(nn.Module):
    def __init__(self, num_classes=5, width=8):
        super().__init__()
        self.num_classes, self.feature_info = num_classes, [dict(reduction=2)]
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        down = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride=2), nn.BatchNorm2d(2 * width))
        self.blocks = nn.Sequential(BasicBlock(width, width), BasicBlock(width, 2 * width, stride=2, downsample=down))
        self.fc = nn.Linear(2 * width, num_classes)
    def trunk(self):
        return [self.stem, *self.blocks]
    def forward_head(self, x):
        return self.fc(x.mean(dim=(2, 3)))
    def forward(self, x):
        return self.forward_head(self.blocks(self.stem(x)))

@bdsa.register_model("tower")
def tower(**arguments):
    return Tower(**arguments)
"""


def test_a_class_of_ones_own_made_of_supported_blocks_becomes_adaptive(tmp_path):
    (tmp_path / "towers").mkdir()
    (tmp_path / "towers/tower.py").write_text(OWN_CLASS.format(more="from .numbers import FIVE"))
    (tmp_path / "towers/numbers.py").write_text("FIVE = 5")
    bdsa.load_plugins(tmp_path / "towers")
    network = bdsa.create_model("tower", [0.5], num_classes=3, width=4).eval()
    x = torch.rand(2, 3, 16, 16)
    logits, usage = network(x, budget=0.5, return_usage=True)
    assert logits.shape == (2, 3) and [m.shape[-1] for m in usage.masks] == [16, 8]
    assert torch.equal(network(x), network(x, budget=1.0, return_usage=True)[0])
    assert usage.conditional_fraction.shape == (2,) and network.dense_macs((16, 16)) > 0
    with pytest.raises(bdsa.UserError, match="unknown model 'towr' .did you mean 'tower'"):
        bdsa.create_model("towr")
    with pytest.raises(bdsa.UserError, match="no pretrained weights"):
        bdsa.create_model("tower", pretrained=True)


def test_a_class_that_lacks_a_part_is_said(tmp_path):
    (tmp_path / "towers.py").write_text(OWN_CLASS.format(more="").replace("forward_head", "head"))
    bdsa.load_plugins([tmp_path / "towers.py"])
    with pytest.raises(bdsa.UserError, match="model tower: a Tower has no forward_head"):
        bdsa.create_model("tower")


def test_a_fresh_process_finds_the_class_of_a_plug_ins_data_set(tmp_path):
    """As the workers of a loader are where processes are not forked."""
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/images.py").write_text("class Images(list):\n    pass\n")
    bdsa.load_plugins("pets")
    images = sys.modules["bdsa.config.plugged.pets.images"].Images()
    code = "import pickle, sys; print(type(pickle.load(sys.stdin.buffer)).__module__)"
    made = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(images), capture_output=True, check=True)
    assert made.stdout.decode().strip() == "bdsa.config.plugged.pets.images"


@pytest.mark.slow
@pytest.mark.parametrize("files, arguments, expected", [
    ({"mine.py": ""}, ["plugins=[min.py]"], ["plug-in min.py does not exist", "did you mean 'mine.py'"]),
    ({"notes.txt": ""}, ["plugins=notes.txt"], ["notes.txt", "neither a Python file nor a folder"]),
    ({"empty/notes.txt": ""}, ["plugins=[empty]"], ["empty", "it brings nothing"]),
    ({"my-own.py": ""}, ["plugins=[my-own.py]"], ["'my-own' cannot be imported"]),
    ({"mine.py": ""}, ["plugins=mine.py,other.py"], ["plugins=[FILE,FOLDER]"]),
    ({"a/mine.py": "", "b/mine.py": ""}, ["plugins=[a/mine.py,b/mine.py]"], ["have the same name"]),
    ({"mine.py": "x = 1\ny = z\n"}, ["plugins=[mine.py]"], ["mine.py, line 2: NameError: name 'z' is not defined"]),
    ({"mine.py": "def f():\n    return 1 / 0\n\nf()\n"}, ["plugins=[mine.py]"], ["mine.py, line 2: ZeroDivisionError"]),
    ({"mine/a.py": "x = 1\nx = = 2\n"}, ["plugins=[mine]"], ["a.py, line 2: SyntaxError: invalid syntax"]),
    ({"mine.py": "import sys\nsys.exit(3)\n"}, ["plugins=[mine.py]"], ["mine.py, line 2: SystemExit: 3"]),
    ({"mine.py": "import bdsa\n@bdsa.register_model('resnet18')\ndef f(): ...\n"}, ["plugins=[mine.py]"],
     ["mine.py, line 2: model 'resnet18' exists already"]),
    ({"mine.py": "import bdsa\n@bdsa.register_dataset('cifar10')\ndef f(): ...\n"}, ["plugins=[mine.py]"],
     ["mine.py, line 2: data set 'cifar10' is registered already"]),
    ({"mine.py": "import bdsa\n@bdsa.register_awareness('l1')\ndef f(): ...\n"}, ["plugins=[mine.py]"],
     ["mine.py, line 2: awareness metric 'l1' exists already"]),
    ({"mine/conf/recipe/quickstart.yaml": "lr: 1"}, ["plugins=[mine]"], ["recipe=quickstart exists already"]),
    ({"mine/conf/recipes/quick.yaml": "lr: 1"}, ["plugins=[mine]"], ["'recipes'", "did you mean 'recipe'"]),
    ({"mine/conf/recipe/mine.yaml": "lr: [1"}, ["plugins=[mine]"], ["mine.yaml is not YAML", "line 1"]),
    ({"mine/conf/recipe/mine.yaml": "lrate: 1"}, ["plugins=[mine]", "recipe=mine"], ["recipe.lrate", "recipe.lr"]),
    ({"mine/conf/recipe/mine.yaml": "lr: 1"}, ["plugins=[mine]", "recipe=mein"], ["mein", "did you mean 'mine'"]),
    ({"mine.py": "import bdsa\n@bdsa.register_awareness('odd')\ndef f(top1, target): return top1 - target\n"},
     ["plugins=[mine.py]", "awareness=odd", "awareness.targets=cifar10", "awareness.row=resnet20"],
     ["awareness metric odd of top-1 0", "must be a number, 0 or more"]),
    ({"mine.py": "import bdsa\n@bdsa.register_awareness('odd')\ndef f(top1): return top1\n"},
     ["plugins=[mine.py]", "awareness=odd", "awareness.targets=cifar10", "awareness.row=resnet20"],
     ["awareness metric odd", "fails: TypeError"]),
])
def test_what_is_wrong_with_a_plug_in_is_one_line_that_names_the_place(tmp_path, files, arguments, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    outcome = run(train_main, [*TINY, "budgets.targets=[0.3,0.5]", *arguments])
    assert outcome.code == 1 and outcome.err.startswith("error: ") and len(outcome.err.splitlines()) == 1, outcome.err
    for text in expected:
        assert text in outcome.err
    assert not (tmp_path / "runs").exists()
