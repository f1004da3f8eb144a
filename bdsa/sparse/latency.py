"""How long an inference takes: engines against each other, in turns, on inputs that change.

An engine is a function of the number of an input that runs one inference on it. What a table says of a run's
network (`latency_of`) and what bdsa-benchmark measures are timed here, in the same way.
"""
from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.machine import multiplies_bfloat16, processor
from bdsa.models.dense_copy import dense_copy, fold_batch_norms
from bdsa.models.modes import evaluating
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.stopwatch import take_turns

Engine = Callable[[int], Any]  # number of an input -> its logits

# Before a turn: worker threads of ONNX Runtime and of OpenMP wait for more work in a loop, for some 50 ms, and
# would slow the next engine down.
REST = 0.06


class Turn:
    """A turn of an engine: inferences on one input after the other; it goes on where the last turn ended.

    Args:
        engine: what runs.
        inputs: how many inputs there are.
        seconds: that a turn lasts at least.
        whole: a turn takes every input as often as any other.
    """

    def __init__(self, engine: Engine, inputs: int, seconds: float, whole: bool = False) -> None:
        self.engine, self.inputs, self.next = engine, inputs, 0
        self.once()  # what is compiled, packed or planned at first use
        self.once()
        started, runs = time.perf_counter(), 0
        while runs < 2 or time.perf_counter() - started < seconds / 4:
            self.once()
            runs += 1
        self.repetitions = max(1, math.ceil(seconds * runs / (time.perf_counter() - started)))
        if whole:
            self.repetitions = math.ceil(self.repetitions / inputs) * inputs

    def once(self) -> None:
        """One inference on the next input."""
        self.engine(self.next)
        self.next = (self.next + 1) % self.inputs

    def __call__(self) -> None:
        for _ in range(self.repetitions):
            self.once()


def time_engines(engines: Mapping[str, Engine], inputs: int, rounds: int, seconds: float,
                 on_turn: Callable[[], None] = lambda: None, whole: Collection[Any] = ()) -> dict[str, list[float]]:
    """Milliseconds of an inference in every round, for each engine; they take turns.

    Args:
        engines: name -> engine.
        inputs: how many inputs there are; every engine goes through them in the same order.
        rounds: rounds that are timed, after one that is not.
        seconds: that a turn lasts at least; the mean of its inferences is the round's figure.
        on_turn: called after every turn, for progress.
        whole: engines that take each input equally often in a round: where some take much longer than others, as in a
            cascade.
    """
    with torch.inference_mode():
        turns = {name: Turn(engine, inputs, seconds, name in whole) for name, engine in engines.items()}

        def settle(name: str) -> None:
            time.sleep(REST)
            turns[name].once()  # its own threads and caches are awake

        timed = take_turns(turns, rounds, 1, torch.device("cpu"), on_turn, settle)
    return {name: [1000 * s / turns[name].repetitions for s in timed[name].seconds] for name in turns}


def network_engine(network: AdaptiveNetwork, inputs: Sequence[Tensor], budget: float, execution: str,
                   masks: Sequence[Sequence[Tensor]] | None = None) -> Engine:
    """The adaptive network at a budget.

    Args:
        network: in eval mode; its weights are taken for constants, as other engines take theirs (`watch_weights`).
        inputs: images [B, 3, H, W] each.
        budget: one that it has.
        execution: "sparse", "auto" or "masked"; the network is left at it, and unwatched.
        masks: for every input, a mask a block; None: the network's own.
    """
    def infer(number: int) -> Tensor:
        network.execution, network.watch_weights = execution, "never"
        return network(inputs[number], budget=budget, masks=None if masks is None else masks[number])

    return infer


def latency_of(network: AdaptiveNetwork, images: Tensor, budgets: Collection[float], batch_size: int = 1,
               execution: str = "auto", rounds: int = 9, seconds: float = 0.02
               ) -> tuple[dict[str, Any], dict[float, dict[str, float]]]:
    """Measure a network with its own masks on its own images, against itself run densely by PyTorch.

    A second or a few; bdsa-benchmark what=latency compares with further engines and takes its time.

    Args:
        network: on the CPU; its mode, weights and execution stay as they are. One whose `cascade` is set is timed as a
            cascade, every image equally often.
        images: [N, 3, H, W], of the data that it is for; N at least `batch_size`.
        budgets: budgets that it has.
        batch_size: images of an inference: one, because a latency is what a single image waits.
        execution: "auto", "sparse" or "masked".
        rounds, seconds: see `time_engines`.

    Returns:
        What the figures are of (batch_size, threads, processor, dense_ms, dense_engine, execution, precision; of a
        cascade also images, how many), and for every budget latency_ms, the median of an inference (a cascade's mean
        over the images), and speedup, against the fastest of PyTorch's dense network as it is ("eager"), with its batch
        norms folded ("folded") and, where this one may round, in bfloat16.
    """
    before, watched = network.execution, network.watch_weights
    with evaluating(network):
        images = images.contiguous(memory_format=torch.channels_last)
        inputs = list(images[:len(images) // batch_size * batch_size].split(batch_size))
        engines: dict[Any, Engine] = {b: network_engine(network, inputs, b, execution) for b in budgets}
        dense = dense_copy(network).to(memory_format=torch.channels_last)
        rivals: dict[str, nn.Module | None] = {"eager": dense, "folded": fold_batch_norms(dense)}
        if network.precision != "float32" and multiplies_bfloat16():
            rivals.update({f"{name} in bfloat16": each and copy.deepcopy(each).bfloat16()
                           for name, each in rivals.items()})
        engines.update({name: _plain(each, inputs) for name, each in rivals.items() if each is not None})
        try:
            timed = time_engines(engines, len(inputs), rounds, seconds, whole=budgets if network.cascade else ())
            ms = {name: median(each) for name, each in timed.items()}
        finally:
            network.execution, network.watch_weights = before, watched
    best = min((name for name in ms if name in rivals), key=ms.__getitem__)
    about = {"batch_size": batch_size, "threads": torch.get_num_threads(), "processor": processor(),
             "dense_ms": ms[best], "dense_engine": best, "execution": execution, "precision": network.precision}
    if network.cascade:
        about["images"] = len(inputs) * batch_size
    return about, {b: {"latency_ms": ms[b], "speedup": ms[best] / ms[b]} for b in budgets}


def _plain(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    """A dense network on inputs in float32, rounded to the type of its weights."""
    dtype = next(network.parameters()).dtype
    return lambda number: network(inputs[number].to(dtype)).float()
