"""Write run folders as bdsa-train leaves them, without training: for the tests of what reads them."""
from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from bdsa.budgets import Budget
from bdsa.config.settings import TrainConfig
from bdsa.report.pictures.mask_set import write_mask_set
from bdsa.report.pictures.masks import MaskColumn

DENSE_MACS = 40_551_040


def top1_of(budget: float, seed: int = 0, gain: float = 0.0) -> float:
    """The top-1 that a run shows: rises with the budget."""
    return round(80 + 12 * math.sqrt(budget) + 0.3 * seed + gain, 2)


def macs_of(fraction: float) -> float:
    return 1_162_144 + 40_108_032 * fraction


def write_run(folder: Path, budgets: tuple[float, ...] = (0.3, 0.5, 0.7), *, gain: float = 0.0, epochs: int = 3,
              finished: bool = True, masks: bool = False, results: dict[str, Any] | None = None,
              latency: float | None = None, **settings: Any) -> Path:
    """A run of cifar_resnet20 on a folder that looks like CIFAR-10.

    Args:
        gain: added to its top-1. latency: milliseconds of the dense network; rows then have latency and speedup.
        results: replaces values of results.json. settings: dotted names, such as **{"trainer.seed": 1}.
    """
    config = OmegaConf.create(asdict(TrainConfig()))
    for name, value in {"model.name": "cifar_resnet20", "data.name": "folder", "data.root": "/data/cifar",
                        "recipe.epochs": epochs, "budgets.targets": list(budgets), "out": str(folder.parent),
                        **settings}.items():
        OmegaConf.update(config, name, value)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    command = f"bdsa-train budgets.targets=[{','.join(f'{b:g}' for b in budgets)}] out={folder.parent}"
    (folder / "environment.json").write_text(json.dumps({
        "run_id": "0", "command": command, "commit": "abc", "processor": "Test CPU", "threads": 2, "device": "cpu",
        "python": "3.11", "versions": {"torch": "2.6"}, "platform": "Linux", "accelerator": None}))
    seed = config.trainer.seed
    rows = [{"name": Budget(b).name, "budget": b, "top1": top1_of(b, seed, gain), "conditional_fraction": b - 0.001
             if b < 1 else 1.0, "macs": macs_of(b - 0.001) if b < 1 else DENSE_MACS, "images": 10_000}
            for b in sorted({*budgets, 1.0})]
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, epochs + 1 if finished else 2):
            file.write(json.dumps({"kind": "train", "epoch": epoch, "loss": {"task": 1 / epoch, "total": 2 / epoch}})
                       + "\n")
            for row in rows:
                if row["budget"] in budgets:
                    file.write(json.dumps({"kind": "eval", "epoch": epoch, "split": "val", "weights": "raw", **row,
                                           "top1": row["top1"] - 10 / epoch}) + "\n")
    if latency is not None:
        for row in rows:
            row["latency_ms"] = latency * (0.2 + 0.8 * row["conditional_fraction"])
            row["speedup"] = latency / row["latency_ms"]
    if finished:
        content = {"model": config.model.name, "parameters": 282_502, "dense_macs": DENSE_MACS, "data": "folder",
                   "split": "test", "classes": 10, "image_size": 32, "trained_budgets": list(budgets), "rows": rows,
                   "epoch": epochs, "weights": "raw", "validated_on": "val"}
        if latency is not None:
            content["latency"] = {"batch_size": 1, "threads": 2, "processor": "Test CPU", "dense_ms": latency,
                                  "dense_engine": "eager"}
        (folder / "results.json").write_text(json.dumps({**content, **(results or {})}, indent=1))
    if masks:
        write_masks(folder / "pictures" / "masks.json", tuple(b for b in budgets if b < 1))
    return folder


def write_masks(path: Path, budgets: tuple[float, ...], images: int = 4) -> None:
    """Masks that cover the part of each image that the budget says, from its left border."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(images, 3, 32, 32, generator=generator)
    columns = [MaskColumn(Budget(b), [(torch.arange(side) < b * side).expand(images, 1, side, side)
                                      for side in (32, 16, 8)], [b] * images, ["cat"] * images) for b in budgets]
    path.parent.mkdir(parents=True)
    write_mask_set(path, pictures, columns, labels=["cat", "dog"] * (images // 2), measured=10_000,
                   densities={c.budget.name: [m.float().mean().item() for m in c.masks] for c in columns})
