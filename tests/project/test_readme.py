"""What the README, the docs and the presets say can be typed, links lead somewhere, and the code runs."""
from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import run
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

import bdsa
from bdsa.commands.entry_points import benchmark as benchmark_main
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import pipeline as pipeline_main
from bdsa.commands.entry_points import train as train_main
from bdsa.commands.entry_points import visualize as visualize_main
from bdsa.commands.folder_arguments import folders_and_settings
from bdsa.commands.launch import prepare_hydra
from bdsa.config.commands import CompareConfig, ReportConfig, TargetsConfig
from bdsa.config.options import experiments, shipped_folder
from bdsa.config.settings import TrainConfig
from bdsa.models.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {str(p.relative_to(ROOT)): p.read_text()
        for p in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]}
# The pages that links are followed on: those of results, examples and sweeps too.
PAGES = DOCS | {str(p.relative_to(ROOT)): p.read_text() for folder in ("experiments", "examples", "sweeps")
                for p in sorted((ROOT / folder).rglob("*.md"))}
ENTRY_POINTS = {"bdsa-train": train_main, "bdsa-evaluate": evaluate_main, "bdsa-visualize": visualize_main,
                "bdsa-export": export_main, "bdsa-benchmark": benchmark_main, "bdsa-pipeline": pipeline_main}
OF_FOLDERS = {"bdsa-targets": TargetsConfig, "bdsa-report": ReportConfig, "bdsa-compare": CompareConfig}
# What each command's composed settings begin with.
FIRST_LINES = ("model:", "checkpoint:")


def commands() -> list[str]:
    """Every bdsa command line of the shell blocks and of the presets' first lines, without what launches it."""
    texts = [block for text in DOCS.values() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    texts += [re.sub(r"^# ?", "", p.read_text(), flags=re.MULTILINE) for p in experiments().values()]
    joined = "\n".join(texts).replace("\\\n", " ")
    lines = [re.sub(r"^torchrun .*?--no-python ", "", line.split("#")[0].strip())
             for line in re.split(r"\n|&&", joined)]
    names = {*ENTRY_POINTS, *OF_FOLDERS}
    return list(dict.fromkeys(line for line in lines if line.split(" ")[0] in names))


def first_job(override: Override) -> str:
    """An override of a sweep's first job, as a word."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return f"{key}={next(override.sweep_string_iterator())}"
    if override.is_interval_sweep():
        return f"{key}={override.value().start}"
    return override.input_line


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_composes(command):
    name, *arguments = shlex.split(command)
    if name in OF_FOLDERS:
        folders, _ = folders_and_settings(arguments, OF_FOLDERS[name], "out=FOLDER")
        assert len(folders) == 2 if name == "bdsa-compare" else folders
        return
    if "--help" in arguments:
        assert "budget" in run(ENTRY_POINTS[name], arguments).out
        return
    plain = [a for a in arguments if a != "-m" and not a.startswith("hydra") and a != "sweep=search"]
    words = [first_job(o) for o in OverridesParser.create().parse_overrides(plain)]
    outcome = run(ENTRY_POINTS[name], [*words, "--cfg", "job"])
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(FIRST_LINES), outcome.out
    for_hydra = [a for a in arguments if a.startswith("hydra") or a == "sweep=search"]
    if for_hydra:  # launchers and searches mean several jobs, which --cfg does not show
        prepare_hydra(TrainConfig, survivors=True)
        with initialize_config_dir(str(shipped_folder("conf")), version_base="1.3"):
            compose("train", for_hydra, return_hydra_config=True)


def test_the_commands_of_every_page_are_tested():
    assert {line.split(" ")[0] for line in commands()} == {*ENTRY_POINTS, *OF_FOLDERS}
    assert "bdsa-train" in commands()  # behind pip install ... &&


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, text in DOCS.items() if "```python\n" in text])
def test_the_code_of_a_page_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the weights are that it loads
    for block in re.findall(r"```python\n(.*?)```", DOCS[page], re.DOTALL):
        exec(block, {"images": torch.rand(2, 3, 64, 64)})


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> Iterator[tuple[Path, str]]:
    """File and anchor of every relative link of a page."""
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:|[^)#\s]*[={])([^)#\s]*)(?:#([^)\s]*))?\)", text):
        path = ROOT / page
        yield (path.parent / target if target else path), anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    for path, anchor in links(page):
        assert path.exists(), f"{page}: {path}"
        assert not anchor or anchor in anchors(path.resolve()), f"{page}: {path} has no heading #{anchor}"


def test_every_page_is_linked_from_the_readme():
    linked = {path.resolve() for path, _ in links("README.md")}
    assert {p.resolve() for p in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("page", DOCS)
def test_code_that_a_page_names_is_there(page):
    for file, name in re.findall(r"`(bdsa/[\w/]*\.?\w*)(?::([\w.]+))?`", DOCS[page]):
        path = ROOT / file
        assert path.exists(), f"{page}: {file}"
        at = ast.parse(path.read_text()) if name else None
        for part in name.split(".") if name else ():
            at = next((n for n in at.body if getattr(n, "name", None) == part), None)
            assert at is not None, f"{page}: {file} has no {name}"


def test_the_readme_installs_the_versions_of_the_constraints():
    asked = re.search(r"pip install (torch==\S+) (torchvision==\S+) --index-url", README).groups()
    assert {*asked} <= {*(ROOT / "constraints.txt").read_text().split()}


@pytest.mark.parametrize("name, budgets", [("cifar10_resnet20", (0.3, 0.5, 0.7)),
                                           ("cifar10_all_budgets", (0.3, 0.5, 0.7, 1.0))])
def test_the_published_weights_hold_the_numbers_that_are_written(name, budgets):
    folder = ROOT / "experiments" / name
    content = read_checkpoint(folder / "cifar_resnet20.safetensors")
    assert bdsa.load(folder / "cifar_resnet20.safetensors").budgets.values == budgets
    assert "BSD-2-Clause" in content["attribution"] and (folder / "LICENSE-weights").exists()
    for row in content["results"]["rows"]:
        written = f"| {row['top1']:.2f} % | {row['conditional_fraction']:.3f} |"
        assert written in (folder / "README.md").read_text()
        assert row["budget"] not in budgets or written in README


def test_the_published_dense_weights_hold_the_number_that_is_written():
    folder = ROOT / "experiments" / "cifar10_dense"
    content = read_checkpoint(folder / "cifar_resnet20.safetensors")
    assert "BSD-2-Clause" in content["attribution"] and (folder / "LICENSE-weights").exists()
    (row,) = content["results"]["rows"]
    assert row["budget"] == 1.0 and row["images"] == 10_000
    assert f"**A ResNet-20 with {row['top1']:.2f} %**" in (folder / "README.md").read_text()
    torch.manual_seed(0)
    loaded = bdsa.create_model("cifar_resnet20", [0.5], weights=folder / "cifar_resnet20.safetensors").eval()
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(image), bdsa.load(folder / "cifar_resnet20.safetensors")(image))
