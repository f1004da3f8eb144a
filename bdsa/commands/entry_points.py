"""The console scripts: each is one line in a shell and imports what is slow only once it runs.

`bdsa NAME ...` is `bdsa-NAME ...`, and so is `python -m bdsa.commands NAME ...`.
"""
from __future__ import annotations

import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from bdsa import __version__
from bdsa.commands.launch import launch
from bdsa.config.benchmark import BENCHMARKS, BenchmarkConfig
from bdsa.config.commands import EvaluateConfig, ExportConfig
from bdsa.config.pipeline import PipelineConfig
from bdsa.config.settings import TrainConfig
from bdsa.config.unused import unused
from bdsa.config.visualize import VisualizeConfig
from bdsa.errors import unknown
from bdsa.ranks import is_main
from bdsa.runs.environment import in_sweep
from bdsa.runs.name import sweep_name

# NAME of bdsa-NAME -> what it does, as `bdsa` lists it, and its entry point
COMMANDS = {
    "train": ("train one network for any number of budgets", "bdsa.commands.entry_points:train"),
    "evaluate": ("measure a trained network at its budgets, or a dense network", "bdsa.commands.entry_points:evaluate"),
    "visualize": ("show where a trained network computes", "bdsa.commands.entry_points:visualize"),
    "export": ("write a trained network as one safetensors file", "bdsa.commands.entry_points:export"),
    "benchmark": ("measure how fast a training or an inference goes on this machine",
                  "bdsa.commands.entry_points:benchmark"),
    "pipeline": ("train single-budget networks, then one network with their top-1 as targets",
                 "bdsa.commands.entry_points:pipeline"),
    "targets": ("make the targets file of awareness from finished single-budget runs", "bdsa.commands.targets:main"),
    "report": ("make tables, plots and a page from the folders of runs", "bdsa.commands.report:main"),
    "compare": ("put two runs, or two sweeps, side by side", "bdsa.commands.compare:main"),
}


def main() -> None:
    """Entry point of bdsa: the command that the first word names, or the list of them."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word == "--version":
        print(f"bdsa {__version__}")
    elif word in ("--help", "-h"):
        print(listing())
    elif word not in COMMANDS:
        sys.exit(f"error: {unknown('command', word, COMMANDS)}")
    else:
        sys.argv[:2] = [f"bdsa-{word}"]
        module, _, function = COMMANDS[word][1].partition(":")
        getattr(import_module(module), function)()


def listing() -> str:
    """What `bdsa` alone prints: a line a command."""
    width = max(map(len, COMMANDS))
    return "\n".join([
        f"bdsa {__version__}: budget-aware dynamic spatially adaptive inference.", "",
        *(f"  bdsa {name:<{width}}  {does}" for name, (does, _) in COMMANDS.items()), "",
        "`bdsa train ...` is `bdsa-train ...`. `bdsa train --help` lists every setting of a command.",
        "`bdsa --version` prints the version."])


def train() -> None:
    """Entry point of bdsa-train: train a network for any number of budgets."""
    launch(_train, TrainConfig, "train")


def _train(config: TrainConfig, folder: Path) -> None:
    from bdsa.training.trainer import train  # torch and timm take seconds: --help and shell completion do not wait

    if (debug := HydraConfig.get().runtime.choices.get("debug")) and is_main():
        print(f"debug={debug}: a run to see that it runs, in {folder}; its numbers mean nothing", flush=True)
    if is_main() and not in_sweep():  # whose jobs share a command line: what is of no use to one is of use to another
        for sentence in unused(config, named()):
            print(f"note: {sentence}", flush=True)
    config.tracker.group = config.tracker.group or sweep_name()
    train(config, folder)


def evaluate() -> None:
    """Entry point of bdsa-evaluate: measure a trained network at any of its budgets, or a dense one."""
    launch(_evaluate, EvaluateConfig, "evaluate")


def _evaluate(config: EvaluateConfig, folder: Path) -> None:
    from bdsa.commands.evaluate import measure

    measure(config, named())


def visualize() -> None:
    """Entry point of bdsa-visualize: show where a trained network computes at each budget."""
    launch(_visualize, VisualizeConfig, "visualize")


def _visualize(config: VisualizeConfig, folder: Path) -> None:
    from bdsa.commands.visualize import visualize

    visualize(config, named())


def export() -> None:
    """Entry point of bdsa-export: write a trained network as one file, for Python or for other programs."""
    launch(_export, ExportConfig, "export")


def _export(config: ExportConfig, folder: Path) -> None:
    from bdsa.commands.export import export

    export(config, named())


def named() -> frozenset[str]:
    """The settings that the command line names: given as their default is not the same as not given."""
    return frozenset(override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task)


def benchmark() -> None:
    """Entry point of bdsa-benchmark: measure how fast a training or a trained network goes on this machine."""
    launch(_benchmark, BenchmarkConfig, "benchmark")


def _benchmark(config: BenchmarkConfig, folder: Path) -> None:
    import_module(BENCHMARKS[config.what]).benchmark(config, named())


def pipeline() -> None:
    """Entry point of bdsa-pipeline: the two stages of the paper with one command."""
    launch(_pipeline, PipelineConfig, "pipeline")


def _pipeline(config: PipelineConfig, folder: Path) -> None:
    """One of its runs is a training like any other."""
    from bdsa.training.trainer import train

    train(TrainConfig(**{part.name: getattr(config, part.name) for part in fields(TrainConfig)}), folder)
