"""Small sweeps, how their jobs ended, and trainings that take no time."""
from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import TINY, Outcome, run
from omegaconf import OmegaConf

from bdsa.commands.entry_points import train as train_main
from bdsa.config.settings import TrainConfig

QUICK = [*TINY, "trainer.pictures=0", "data.train_images=48", "trainer.threads=1", "trainer.latency=false"]


def sweep(folder: Path, *arguments: str) -> Outcome:
    return run(train_main, ["-m", *QUICK, f"out={folder}", *arguments])


def fake(config: TrainConfig, folder: Path) -> None:
    """A training that takes no time; its top-1 is best at a learning rate of 0.003."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    top1 = 90 - 1000 * abs(config.recipe.lr - 0.003)
    made = {"model": "cifar_resnet8", "data": "digits", "image_size": 32, "classes": 10, "split": "test",
            "dense_macs": 4e7, "trained_budgets": [0.3], "rows": [{
                "name": "b030", "budget": 0.3, "top1": top1, "images": 10, "conditional_fraction": 0.3, "macs": 1e7}]}
    (folder / "results.json").write_text(json.dumps(made))


def stated(outcome: Outcome) -> list[str]:
    """The states in the table at the end, job by job."""
    table = outcome.out[outcome.out.rindex(" settings "):]
    return re.findall(r"^ +\d+ +(done|resumed|skipped|failed|stopped|not started) ", table, re.MULTILINE)
