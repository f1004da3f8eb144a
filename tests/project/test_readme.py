"""What the README and the presets say can be typed, and the code in it runs."""
from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from command_line import run

import bdsa
from bdsa.commands.entry_points import benchmark as benchmark_main
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import pipeline as pipeline_main
from bdsa.commands.entry_points import train as train_main
from bdsa.commands.entry_points import visualize as visualize_main
from bdsa.config.options import experiments
from bdsa.models.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ENTRY_POINTS = {"bdsa-train": train_main, "bdsa-evaluate": evaluate_main, "bdsa-visualize": visualize_main,
                "bdsa-export": export_main, "bdsa-benchmark": benchmark_main, "bdsa-pipeline": pipeline_main}


def commands() -> list[str]:
    """Every bdsa command line of the README's shell blocks and of the presets' first lines."""
    texts = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    texts += [re.sub(r"^# ?", "", p.read_text(), flags=re.MULTILINE) for p in experiments().values()]
    joined = "\n".join(texts).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in joined.splitlines()
            if line.strip().startswith(tuple(f"{name} " for name in ENTRY_POINTS))]


@pytest.mark.parametrize("command", commands())
def test_a_command_composes(command):
    name, *arguments = shlex.split(command)
    if "--help" in arguments:
        assert "budget" in run(ENTRY_POINTS[name], arguments).out
        return
    arguments = [re.sub(r"=([\w.]+),.*", r"=\1", a) for a in arguments if a != "-m"]  # a sweep's first job
    outcome = run(ENTRY_POINTS[name], [*arguments, "--cfg", "job"])
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(("model:", "checkpoint:")), outcome.out


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {"images": torch.rand(2, 3, 64, 64)})


def test_pictures_and_folders_that_the_readme_names_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_published_weights_hold_the_numbers_that_are_written():
    folder = ROOT / "experiments" / "cifar10_resnet20"
    content = read_checkpoint(folder / "cifar_resnet20.safetensors")
    assert bdsa.load(folder / "cifar_resnet20.safetensors").budgets.values == (0.3, 0.5, 0.7)
    assert "BSD-2-Clause" in content["attribution"] and (folder / "LICENSE-weights").exists()
    for row in content["results"]["rows"]:
        written = f"| {row['top1']:.2f} % | {row['conditional_fraction']:.3f} |"
        assert written in (folder / "README.md").read_text()
        assert row["budget"] == 1.0 or written in README
