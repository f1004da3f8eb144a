"""Which part of the package may import which, and what one line of code waits for.

Every import counts, also one inside a function: it is written there to come later, not to come from above.
"""
from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import bdsa
from bdsa.models.checkpoints import ModelSpec, network_content
from bdsa.models.weights_file import write_weights_file

ROOT = Path(__file__).parents[2]
GROUND = ("errors", "ranks", "machine", "budgets", "distributed", "timm_names")
ROOMS = ("method", "config", "data", "runs", "report", "models", "sparse", "training", "commands")
ENTRIES = 10  # in bdsa/, beside __init__.py and the ground files


@cache
def modules() -> dict[str, Path]:
    """Every module's file by the module's name; a package is its `__init__`."""
    files = [file for top in ("bdsa", "hydra_plugins") for file in (ROOT / top).rglob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports, wherever in its file; `bdsa` itself names its parts lazily."""
    return {name: imported(file.read_text(), name if file.stem == "__init__" else name.rpartition(".")[0])
            for name, file in modules().items() if name != "bdsa"}


def imported(source: str, package: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            within = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else origin for name in within}
    return found & modules().keys()


def rank(module: str) -> int:
    """0 for a ground file, then the rooms in their order."""
    top, *below = module.split(".")
    if top == "hydra_plugins":  # Hydra demands that its sweepers lie there
        return rank("bdsa.commands")
    return 0 if below[0] in GROUND else 1 + ROOMS.index(below[0])


def test_every_import_of_another_room_is_of_one_before() -> None:
    upward = [f"{name} imports {target}" for name, targets in imports().items()
              for target in targets if target != "bdsa" and rank(target) > rank(name)]
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert list(TopologicalSorter(imports()).static_order())  # raises CycleError, which names the circle


def test_nothing_inside_takes_the_public_names() -> None:
    """They are imported lazily, so that a circle through them would be seen by nobody."""
    for name, file in modules().items():
        taken = {alias.name for node in ast.walk(ast.parse(file.read_text()))
                 if isinstance(node, ast.ImportFrom) and node.module == "bdsa" for alias in node.names}
        assert not taken & {*bdsa.__all__}, name


def test_a_new_room_is_a_decision() -> None:
    entries = {path.name.removesuffix(".py") for path in (ROOT / "bdsa").iterdir() if path.name != "__pycache__"}
    assert {"__init__", *GROUND, *ROOMS} <= entries
    assert len(entries - {"__init__", *GROUND}) <= ENTRIES


@pytest.mark.parametrize("source, found", [
    ("def late():\n    from bdsa.training import step", {"bdsa.training.step"}),
    ("import bdsa.models.factory as f, torch", {"bdsa.models.factory"}),
    ("from bdsa.budgets import Budgets, DENSE", {"bdsa.budgets"}),
    ("from . import page\nfrom .pictures.masks import x", {"bdsa.report.page", "bdsa.report.pictures.masks"}),
    ("from bdsa import __version__, ranks", {"bdsa", "bdsa.ranks"}),
])
def test_the_imports_of_a_file_are_found(source: str, found: set[str]) -> None:
    assert imported(source, "bdsa.report") == found


@pytest.mark.slow
def test_loading_a_network_waits_for_no_command_line(tmp_path: Path) -> None:
    spec = ModelSpec("cifar_resnet8", 10, [0.5, 1.0])
    write_weights_file(tmp_path / "network.safetensors", network_content(spec.build(), spec))
    code = ("import sys, timm\nbefore = {*sys.modules}\nimport bdsa\nnetwork = bdsa.load(sys.argv[1])\n"
            "assert list(network.budgets) == [0.5, 1.0]\n"
            "print(sorted({'hydra', 'omegaconf', 'wandb', 'matplotlib', 'rich', 'sklearn'} & {*sys.modules} - before))")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "network.safetensors"], capture_output=True,
                          text=True)
    assert done.stdout.strip() == "[]", done.stderr  # timm itself imports wandb
