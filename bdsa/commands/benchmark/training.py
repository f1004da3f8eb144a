"""bdsa-benchmark what=training: images per second of the training's steps and of its loader."""
from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bdsa.budgets import DENSE, Budgets
from bdsa.commands.benchmark.capture import captured_steps
from bdsa.commands.benchmark.folder import benchmark_folder, check_alone
from bdsa.commands.benchmark.training_report import report, verdict
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.settings import AwarenessConfig
from bdsa.data.loaders import EpochLoader, train_loader
from bdsa.errors import UserError
from bdsa.report.progress import progress_bar
from bdsa.runs.environment import environment
from bdsa.runs.files import check_writable, write_json
from bdsa.sparse.stopwatch import Timed, take_turns
from bdsa.training.assembly import Assembly, assemble, create_network
from bdsa.training.device import choose_device, slow_choices
from bdsa.training.step import TrainStep

HELD = 4  # batches that wait on the device and are trained in turn
DENSE_STEP = "dense"


@dataclass(frozen=True)
class Variant:
    """A kind of step: which budgets it trains, by turns or as a sandwich, and whether with the teacher."""
    name: str
    budgets: tuple[float, ...]
    taught: bool = False
    schedule: str = "round_robin"


def benchmark(config: BenchmarkConfig, named: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Measure, print the table and write benchmark.json; return its content.

    Args:
        config: the training's settings.
        named: the settings that the command line names; here the defaults are as good.

    Raises:
        UserError: for bad input, before anything is written.
    """
    check_alone()
    config = replace(config, awareness=AwarenessConfig())  # its weights change no step's time
    device = choose_device(config.trainer)
    if config.timing.graph and device.type != "cuda":
        raise UserError(f"timing.graph=true captures CUDA graphs, which trainer.device={config.trainer.device} does "
                        f"not have: leave it out, or name a GPU")
    assembly = assemble(config, device)
    assembly.splits.train.draw()
    folder = benchmark_folder(config, config.data.name, config.model.name, str(device))
    check_writable(folder)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    batches = held_batches(config, assembly, device)
    works = {v.name: Steps(config, assembly, v, batches, device) for v in variants(config)}
    if config.timing.graph:
        works = {**graphs({v.name: Steps(config, assembly, v, batches, device) for v in variants(config)}), **works}
    count = whole_turns(config)
    with progress_bar() as bar:
        timing = config.timing
        task = bar.add_task("steps", total=len(works) * (timing.rounds + timing.warmup))
        timed = take_turns(works, timing.rounds, timing.warmup, device, lambda: bar.advance(task))
    size = config.recipe.batch_size
    rows = [row(name, timed[name].seconds, count, size, budgets=[float(b) for b in work.variant.budgets],
                teacher=config.teacher.kind if work.variant.taught else None,
                peak_memory=work.peak_memory(timed[name])) for name, work in works.items()]
    dense = next(each for each in rows if each["name"] == DENSE_STEP)
    for each, work in zip(rows, works.values()):
        each["budgets_per_step"] = len(work.step.sampling.at(0))
        each["budget_images_per_second"] = each["budgets_per_step"] * each["images_per_second"]
        each["time_ratio"] = each["ms_per_step"] / dense["ms_per_step"]
    reads, seconds = time_loader(assembly.loader, count, timing.rounds)
    rows.append(row("loader", seconds, reads, size, workers=assembly.loader.num_workers))
    result = {"what": config.what, "model": config.model.name, "data": assembly.splits.name,
              "image_size": assembly.splits.image_size, "batch_size": size, "steps": count, "rounds": timing.rounds,
              "rows": rows, "verdict": verdict(rows[-2], rows[-1]), "load_before": load, "cores": os.cpu_count(),
              "slow_choices": slow_choices(device, config.trainer),
              "environment": environment(str(device)), "settings": asdict(config)}
    write_json(folder / "benchmark.json", result)
    report(result, folder / "benchmark.json")
    return result


def variants(config: BenchmarkConfig) -> list[Variant]:
    """The kinds of step to compare: the dense one first, last the one that the config trains."""
    budgets = Budgets(config.budgets.targets)
    found = [Variant(DENSE_STEP, (DENSE,))]
    if budgets.adaptive:
        found.append(Variant("single", budgets.values[:1]))
    if len(budgets) > 1:
        found.append(Variant("multi", budgets.values))
    if config.teacher.kind != "none" and (budgets.adaptive or config.teacher.kind != "self"):
        found.append(Variant(f"{found[-1].name}+teacher", budgets.values, taught=True))
    if config.budgets.schedule == "sandwich":
        found.append(replace(found[-1], name=found[-1].name.replace("multi", "sandwich"), schedule="sandwich"))
    return found


def graphs(works: dict[str, Steps]) -> dict[str, Steps]:
    """Those of the works that can be captured as CUDA graphs, which they replay from here on."""
    found = {}
    for name, work in works.items():
        if (replay := captured_steps(name, work.step, work.all_steps)) is not None:
            work.replay = replay
            found[f"{name}, graph"] = work
    return found


def whole_turns(config: BenchmarkConfig) -> int:
    """Steps of a round: as many as asked for or more, so that every budget and every update is in it whole."""
    turn = math.lcm(len(config.budgets.targets), config.recipe.accumulation)
    return math.ceil(config.timing.steps / turn) * turn


class Steps:
    """A round of training steps of one kind, on a network of its own.

    The steps are those of the first epoch in which the whole network learns. Every round repeats their numbers:
    rates, temperature and noise follow from a step's number, and so does the graph of a compiled network.

    Args:
        config: the training's settings.
        assembly: what the training would train with; its network is left alone.
        variant: the kind.
        batches: images [B, 3, H, W] and labels [B], on the device; they are trained on in turn.
        device: where it trains.
    """

    def __init__(self, config: BenchmarkConfig, assembly: Assembly, variant: Variant,
                 batches: list[tuple[Tensor, Tensor]], device: torch.device) -> None:
        budgets, self.batches, self.count = Budgets(variant.budgets), batches, whole_turns(config)
        config = replace(config, model=replace(config.model, start=None))  # a trained network has its own budgets
        spec, network = create_network(config, budgets, assembly.splits, device)
        self.teacher = assembly.teacher if variant.taught else None
        assembly = replace(assembly, spec=spec, network=network, budgets=budgets, teacher=self.teacher)
        sample = config.budgets.sample if len(budgets.adaptive) > 1 else "listed"
        config = replace(config, budgets=replace(config.budgets, targets=budgets.plain(), schedule=variant.schedule,
                                                 sample=sample))
        self.step, self.variant = TrainStep(config, assembly, device), variant
        self.epoch = min(config.recipe.freeze_backbone_epochs, config.recipe.epochs - 1)
        self.step.start_epoch(self.epoch)
        self.replay: Callable[[], None] | None = None  # of a graph, in place of the steps

    def __call__(self) -> None:
        """Train on `count` batches."""
        if self.replay is not None:
            return self.replay()
        self.step.start_epoch(self.epoch)
        self.all_steps()

    def all_steps(self) -> None:
        """The steps alone."""
        first = self.epoch * self.step.per_epoch
        for number, (images, labels) in zip(range(first, first + self.count), itertools.cycle(self.batches)):
            self.step(number, images, labels)

    def peak_memory(self, timed: Timed) -> int | None:
        """Bytes of the accelerator that this kind alone would use at most; None on a CPU."""
        if timed.working_memory is None or self.replay is not None:  # a graph's memory is its own all the time
            return None
        networks = [self.step.network, getattr(self.step.ema, "module", None), getattr(self.teacher, "network", None)]
        kept = [t for n in networks if n is not None for t in (*n.parameters(), *n.buffers())]
        kept += [t for state in self.step.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        kept += [t for batch in self.batches for t in batch]
        return timed.working_memory + sum(t.nbytes for t in kept if t.device.type != "cpu")


def held_batches(config: BenchmarkConfig, assembly: Assembly, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The first training batches on the device, read without workers, which would go on reading meanwhile."""
    loader = train_loader(assembly.splits.train, config.recipe.batch_size, 0, config.trainer.seed)
    return [(images.to(device), labels.to(device)) for images, labels in itertools.islice(loader, HELD)]


def time_loader(loader: EpochLoader, batches: int, rounds: int) -> tuple[int, list[float]]:
    """Read from a training's loader, and do nothing with it, epoch after epoch.

    Args:
        loader: a training's loader.
        batches: to read in a round at least. Workers deliver in bursts, so it is four batches of each or more.
        rounds: rounds that are timed; what the workers hold ready is read before.

    Returns:
        Batches a round and the seconds of each round.
    """
    workers = loader.num_workers
    stream = _epochs(loader)
    for _ in range(1 + workers * (loader.prefetch_factor or 0)):
        next(stream)
    batches = max(batches, 4 * workers)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(batches):
            next(stream)
        seconds.append(time.perf_counter() - started)
    return batches, seconds


def _epochs(loader: EpochLoader) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def row(name: str, seconds: list[float], steps: int, batch_size: int, **more: Any) -> dict[str, Any]:
    """A row of the table: the median of the rounds, and every round's mean step for whoever doubts it."""
    each = sorted(1000 * s / steps for s in seconds)
    median = (each[(len(each) - 1) // 2] + each[len(each) // 2]) / 2
    return {"name": name, "images_per_second": 1000 * batch_size / median, "ms_per_step": median,
            "rounds_ms": [1000 * s / steps for s in seconds], **more}
