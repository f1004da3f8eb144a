"""Kill a training again and again, take it up each time, and hold the end against an undisturbed run.

    python tests/support/killed_runs.py KIND KILLS SEED FOLDER

Everything slow is imported once; each attempt is a fork of this process, which the kill takes as it would take any
other. Half of the kills come at a random moment, half from within the writing of a file. Prints one line of JSON: how
many kills, how they were spread, and what differs at the end (nothing).
"""
from __future__ import annotations

import collections
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from command_line import TINY

import bdsa.training.trainer  # noqa: F401  (before the first fork)
from bdsa.commands.entry_points import train
from bdsa.models.checkpoints import read_checkpoint
from bdsa.runs import files
from bdsa.runs.contents import read_results
from bdsa.runs.metrics import MetricsFile

KINDS = {
    "plain": [],
    "averaged": ["recipe.ema_decay=0.9", "recipe.mixup=0.4", "recipe.cutmix=0.4"],
    "steered": ["budgets=steered", "model.mask_norm=batch", "model.mask_start=activity", "teacher=self"],
    "sandwich": ["budgets.schedule=sandwich", "budgets.targets=[0.3,0.5,0.7,1.0]", "teacher=self"],
    "continuous": ["budgets=continuous", "recipe.ema_decay=0.9"],
    "wandb": ["tracker=wandb"],
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 120.0  # seconds after which an attempt hangs
KEPT = ("state_dict", "optimizer", "ema", "scaler", "epoch", "best", "budget_weights", "results", "calibrated")


def attempt(words: list[str], log: Path, kill: tuple[str, float, int] | None) -> int | None:
    """Run the command in a fork; returns its exit code, negative for a signal, None if it hung.

    Args:
        kill: ("moment", seconds, signal) or ("write", which call within the writing of files, signal).
    """
    child = os.fork()
    if child == 0:
        with log.open("a") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        if kill is not None and kill[0] == "write":
            die_within_writing(int(kill[1]), kill[2])
        sys.argv = ["bdsa-train", *words]
        try:
            train()
        except SystemExit as stop:
            os._exit(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        os._exit(0)
    if kill is not None and kill[0] == "moment":
        time.sleep(kill[1])
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return 0
        os.kill(child, kill[2])
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def die_within_writing(which: int, number: int) -> None:
    """Send this process a signal at the given call among all that write files, before or after its work."""
    calls = iter(range(10**6))

    def dying(work: Any) -> Any:
        def call(*arguments: Any) -> Any:
            turn = next(calls)
            if turn == which and which % 2:
                os.kill(os.getpid(), number)
            result = work(*arguments)
            if turn == which:
                os.kill(os.getpid(), number)
            return result
        return call

    files.os = type("os", (), {"fsync": staticmethod(dying(os.fsync)), "replace": staticmethod(dying(os.replace))})
    torch.save = dying(torch.save)


def outcome(folder: Path) -> dict[str, Any]:
    """What must be equal: weights, optimiser and rows; not how long it took, nor where it lies."""
    found: dict[str, Any] = {"results": read_results(folder)}
    for file in sorted((folder / "checkpoints").glob("*.pt")):
        content = read_checkpoint(file)
        found.update({f"{file.name} {key}": content[key] for key in KEPT if key in content})
    timing = ("seconds", "images_per_second")
    found["metrics"] = [{k: v for k, v in row.items() if k not in timing}
                        for row in MetricsFile(folder / "metrics.jsonl").read()]
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The places in which two outcomes differ."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        return [d for key in {*one, *other} for d in differences(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other)) for d in differences(*pair, f"{where}/{i}")]
    return [] if one == other or (one != one and other != other) else [where]


def campaign(kind: str, kills: int, seed: int, home: Path) -> dict[str, Any]:
    """Kill runs of a kind until `kills` have hit, each run to its end; count."""
    draw = random.Random(seed)
    home.mkdir(parents=True, exist_ok=True)
    words = [*(w for w in TINY if w != "tracker=none" or kind != "wandb"), *KINDS[kind], "trainer.latency=false",
             "trainer.pictures=0", f"out={home}"]
    log = home / "log.txt"
    started = time.monotonic()
    assert attempt([*words, "name=undisturbed"], log, None) == 0, log.read_text()[-2000:]
    lasts = time.monotonic() - started
    expected = outcome(home / "undisturbed")
    counted: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    runs = 0
    while counted["kills"] < kills:
        runs += 1
        name = f"killed{runs}"
        for _ in range(draw.randint(1, 6)):
            number = draw.choice(SIGNALS)
            kill = ("moment", draw.uniform(0.05, lasts), number) if draw.random() < 0.5 else (
                "write", draw.randint(0, 30), number)
            code = attempt([*words, f"name={name}"], log, kill)
            if code is None:
                wrong.append(f"{name} hung after {signal.Signals(number).name} ({kill[0]})")
            if code != 0:
                counted.update(["kills", kill[0], signal.Signals(number).name])
            if code == 0 or counted["kills"] >= kills:
                break
        code = attempt([*words, f"name={name}"], log, None)
        if code != 0:
            wrong.append(f"{name} ended with {code}: {log.read_text()[-300:]}")
        else:
            wrong += [f"{name}{place}" for place in differences(outcome(home / name), expected)]
        wrong += [f"{name}: {p.name} was left" for p in (home / name).rglob("*.tmp")]
    return {"kind": kind, "runs": runs, **counted, "wrong": wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    print(json.dumps(campaign(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]).absolute())))
