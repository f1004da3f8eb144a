"""What two processes train, for test_distributed.py: `torchrun --nproc-per-node 2 two_ranks.py FOLDER`.

Importing torch and timm takes seconds a process, so one start does everything; each rank leaves what it
got in FOLDER/rank<r>.pt.
"""
from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from command_line import TINY, Outcome, run
from torch import Tensor

from bdsa import distributed, ranks
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.config.settings import (
    BudgetsConfig,
    DataConfig,
    ModelConfig,
    RecipeConfig,
    TeacherConfig,
    TrainConfig,
    TrainerConfig,
)
from bdsa.runs.tracker import NoTracker
from bdsa.training import averaging
from bdsa.training.assembly import assemble
from bdsa.training.compilation import compiled
from bdsa.training.step import TrainStep

CASES: dict[str, dict[str, Any]] = {
    "batch norm": dict(),
    "shared affine, two budgets an update": dict(
        model=ModelConfig("cifar_resnet8", norm_affine="shared"), teacher=TeacherConfig("self"),
        recipe=dict(accumulation=2, clip_grad=1.0)),
    "ConvNeXt, three budgets an update": dict(
        model=ModelConfig("convnext_atto", args=dict(depths=[1, 1, 1, 1], dims=[8, 8, 16, 16])),
        recipe=dict(accumulation=3, optimizer="adamw", lr=1e-3, drop_path=0.3, ema_decay=0.5)),
    "ResNet-18, two budgets of three an update": dict(
        model=ModelConfig("resnet18", args=dict(channels=[8, 8, 16, 16])), recipe=dict(accumulation=2)),
    "normalised mask logits, steered": dict(
        model=ModelConfig("cifar_resnet8", mask_norm="batch"), budgets=dict(control_gain=3.0, warmup=0.5)),
    "mixed images": dict(recipe=dict(mixup=0.8, cutmix=1.0, label_smoothing=0.1)),
    "a sandwich, taught by its own dense network": dict(
        teacher=TeacherConfig("self"), budgets=dict(schedule="sandwich")),
    "continuous, steered": dict(
        model=ModelConfig("cifar_resnet8", mask_norm="batch"), budgets=dict(sample="continuous", control_gain=1.0)),
    "compiled, all in one graph": dict(budgets=dict(targets=[0.3]), compile=True),
    "own statistics": dict(sync=False),
}
STEPS = 6
RUN = [*TINY, "budgets.targets=[0.3,1.0]", "recipe.optimizer=sgd", "recipe.lr=0.01", "recipe.epochs=2",
       "trainer.pictures=0"]


@dataclass
class Trained:
    """What a few steps leave: losses a step, gradients before the first update, and the weights."""
    losses: list[dict[str, float]] = field(default_factory=list)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


def train_steps(model: ModelConfig | None = None, recipe: dict[str, Any] | None = None,
                teacher: TeacherConfig | None = None, budgets: dict[str, Any] | None = None,
                sync: bool = True, compile: bool = False) -> Trained:
    """Train six steps with noise, in float64: in float32 a mask that flips by rounding would hide an error."""
    recipe = {"batch_size": 8, "optimizer": "sgd", "lr": 0.05, "epochs": 2, "warmup_epochs": 0, **(recipe or {})}
    config = TrainConfig(
        model=model or ModelConfig("cifar_resnet8"),
        budgets=BudgetsConfig(**{"targets": [0.3, 0.7, 1.0], "noise_until": 1.0, **(budgets or {})}),
        teacher=teacher or TeacherConfig(),
        data=DataConfig(name="cluttered_digits", image_size=32, train_images=8 * STEPS, val_images=8, test_images=8),
        recipe=RecipeConfig(**recipe), trainer=TrainerConfig(sync_batch_norm=sync))
    assembly = assemble(config, torch.device("cpu"))
    assembly.network.double()
    step, outcome = TrainStep(config, assembly, torch.device("cpu")), Trained()
    if compile:  # without a C++ compiler's minute
        step.forward = compiled(step.network, 32, phases=1, backend="aot_eager", fullgraph=True)
    step.start_epoch(0)
    update = step.optimizer.step

    def noted_update() -> None:
        if not outcome.gradients:
            outcome.gradients = {n: None if p.grad is None else p.grad.clone()
                                 for n, p in assembly.network.named_parameters()}
        update()

    step.optimizer.step = noted_update
    for i, (images, labels) in enumerate(assembly.loader):
        outcome.losses.append({k: float(v) for k, v in step(i, images.double(), labels).items()})
    for kind, network in step.networks().items():
        distributed.average_statistics(network)
        outcome.state |= {f"{kind}.{name}": value for name, value in network.state_dict().items()}
    return outcome


def stopped_run(folder: Path) -> None:
    """The run of RUN, stopped as if by Ctrl-C in its second epoch."""
    real = NoTracker.log_eval

    def stop(self, rows):
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    NoTracker.log_eval = stop
    outcome = run(train_main, [*RUN, f"out={folder}", "name=stopped"])
    NoTracker.log_eval = real
    assert outcome.code == 130, outcome


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks.GRACE = 0.0  # no launcher waits for these exits
    averaging.BUCKET = 2 ** 16  # so that these small networks have several
    distributed.start()
    steps = {name: train_steps(**case) for name, case in CASES.items()}
    stopped_run(folder)
    outcomes: dict[str, Outcome] = {}
    for name, entry, arguments in (
            ("whole", train_main, [*RUN, f"out={folder}", "name=whole"]),
            ("resumed", train_main, [*RUN, f"out={folder}", "name=stopped"]),
            ("again", train_main, [*RUN, f"out={folder}", "name=whole"]),
            ("another", train_main, [*RUN, f"out={folder}", "name=whole", "recipe.lr=0.5"]),
            ("indivisible", train_main, [*RUN, f"out={folder}", "name=none", "recipe.batch_size=15"]),
            ("dropout", train_main, [*RUN, f"out={folder}", "name=none", "+model.args.drop_rate=0.3"]),
            ("sweep", train_main, ["-m", *RUN, f"out={folder}/sweep", "recipe.epochs=1", "trainer.seed=0,1"]),
            ("evaluated", evaluate_main, [f"checkpoint={folder}/whole/checkpoints/best.pt",
                                          f"out={folder}/evaluated", "trainer.eval_batch_size=17"])):
        outcomes[name] = run(entry, arguments)
        distributed.barrier()
        if name == "whole" and ranks.rank() == 0:
            shutil.copytree(folder / "stopped", folder / "stopped_for_one")  # before this one resumes it
        distributed.barrier()
    torch.save((steps, outcomes), folder / f"rank{ranks.rank()}.pt")


if __name__ == "__main__":
    import two_ranks  # under its own name, by which what it saves is found again

    two_ranks.main(Path(sys.argv[1]))
