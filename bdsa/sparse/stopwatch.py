"""Time pieces of work against each other: in turns, so that what slows the machine down slows all of them."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class Timed:
    """What a piece of work took.

    Attributes:
        seconds: of each timed round.
        working_memory: bytes on the accelerator beyond what was there when a round began, at most; None
            on a CPU.
    """
    seconds: list[float] = field(default_factory=list)
    working_memory: int | None = None


def take_turns(works: Mapping[str, Callable[[], None]], rounds: int, warmup: int, device: torch.device,
               on_turn: Callable[[], None] = lambda: None,
               before_turn: Callable[[str], None] = lambda name: None) -> dict[str, Timed]:
    """Do all works once a round: A B C, A B C, ...

    Args:
        works: name -> what to do; it need not wait for the device.
        rounds: rounds that are timed.
        warmup: rounds before them, for compilers, caches and memory.
        device: waited for at the start and the end of a turn, and never within.
        on_turn: called after every turn, for progress.
        before_turn: called with the name before every turn, and not timed.
    """
    timed = {name: Timed() for name in works}
    cuda = device.type == "cuda"
    for number in range(warmup + rounds):
        for name, work in works.items():
            before_turn(name)
            before = 0
            if cuda:
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            started = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - started
            on_turn()
            if number < warmup:
                continue
            timed[name].seconds.append(seconds)
            if cuda:
                used = torch.cuda.max_memory_allocated(device) - before
                timed[name].working_memory = max(used, timed[name].working_memory or 0)
    return timed
