"""Which budget meets a deadline on this machine: measured, kept with the network, and used by `latency_ms=`.

A plan is of a size of image and batch, a processor and a number of threads. Its table says how long inferences took at
some budgets, not in the mean but for a percentile of them, because a deadline is missed by the slow ones.
"""
from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor

from bdsa.budgets import DENSE
from bdsa.config.image_size import ImageSize, height_width
from bdsa.errors import UserError
from bdsa.models.deadlines import Measured, Plan, name_of
from bdsa.models.network import AdaptiveNetwork

STEP = 0.05          # between the budgets of a table
FEWEST = 100         # inferences at a budget, at least; a percentile of fewer says little
NOISE = 16           # images of noise, where none are given


@torch.inference_mode()
def plan(network: AdaptiveNetwork, latency_ms: float, batch_size: int = 1, image_size: ImageSize | None = None, *,
         images: Tensor | None = None, budgets: Iterable[float] | None = None, percentile: float = 99.0,
         per_image: bool | None = None, seconds: float = 20.0) -> Plan:
    """Find the largest budget that meets a deadline, and let the network use it: `network(x, latency_ms=...)`.

    Args:
        network: in evaluation mode; its execution is what is measured.
        latency_ms: milliseconds from image to logits.
        batch_size: images of an inference.
        image_size: side of the images, or [height, width]; not needed where images are given.
        images: [N, C, H, W] like those to come; noise where None.
        budgets: those of the table; None: every 0.05 from the smallest trained one to 1 where the network has curves,
            else those that were trained, and 1.
        percentile: of the inferences that are to be within the time that is said of a budget; it is read where only
            half as many exceed it, because some hundred inferences do not tell a percentile exactly.
        per_image: whether no image may exceed its budget (`forward`); None: where no images are given, because
            noise does not say how far images differ.
        seconds: that the measurement takes, about.

    Returns:
        The plan: its budget, and the table, which stays with the network (`network.plans`).

    Raises:
        UserError: for a network in training mode or with `cascade`, and for a deadline below the fastest budget's
            time, which it names.
    """
    if network.training:
        raise UserError("a plan is for inference: call network.eval() before")
    if network.cascade:
        raise UserError("a deadline is for one look, and a cascade takes two at some images: network.cascade = False")
    if not latency_ms > 0 or not 0 < percentile <= 100 or batch_size < 1 or not seconds > 0:
        raise UserError(f"latency_ms={latency_ms:g}, percentile={percentile:g}, batch_size={batch_size}, seconds="
                        f"{seconds:g}: all must be above zero, and the percentile at most 100")
    exact = images is None if per_image is None else per_image
    batches = _batches(network, images, batch_size, image_size)
    asked = sorted({network.require(b) for b in (_usual(network) if budgets is None else budgets)})
    taken: list[list[float]] = [[] for _ in asked]
    for budget in asked:  # what is packed and chosen at first use, and recorded or captured by the second
        for batch in (batches * 2)[:2]:
            network(batch, budget=budget, per_image=exact)
    started, rounds = time.perf_counter(), 0
    while rounds < FEWEST or time.perf_counter() - started < seconds:  # in turns: what slows the machine slows all
        for times, budget in zip(taken, asked):
            batch = batches[rounds % len(batches)]
            _wait(batch.device)
            before = time.perf_counter()
            network(batch, budget=budget, per_image=exact)
            _wait(batch.device)
            times.append(1000 * (time.perf_counter() - before))
        rounds += 1
    sure = 100 - (100 - percentile) / 2  # half of the misses are left to chance: it is told by some hundred times
    slow = accumulate((_percentile(times, sure) for times in taken), max)  # more work is not less time
    table = tuple(Measured(float(b), _percentile(times, 50), ms) for b, times, ms in zip(asked, taken, slow))
    made = Plan(latency_ms, tuple(batches[0].shape), percentile, exact, network.execution, network.precision,
                name_of(batches[0].device), torch.get_num_threads(), rounds, table)
    made.budget_for(latency_ms)
    network.plans = (made, *(p for p in network.plans if p.conditions != made.conditions))
    return made


def _wait(device: torch.device) -> None:
    """For what a device was given to do; a CPU has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _usual(network: AdaptiveNetwork) -> list[float]:
    if not network.curves:
        return [*network.budgets, DENSE]
    smallest = float(network.budgets.values[0])
    steps = round((1 - smallest) / STEP)
    return [*network.budgets, *(smallest + i * (1 - smallest) / max(1, steps) for i in range(steps)), DENSE]


def _batches(network: AdaptiveNetwork, images: Tensor | None, batch_size: int, image_size: ImageSize | None
             ) -> list[Tensor]:
    """What is run: batches of the images, or of noise of that size."""
    if images is None:
        if image_size is None:
            raise UserError("which images? give their size, such as image_size=224, or images=[N, 3, H, W]")
        generator = torch.Generator().manual_seed(0)
        shape = (NOISE * batch_size, network._channels(), *height_width(image_size))
        images = torch.randn(shape, generator=generator).to(next(network.parameters()))
    if len(images) < batch_size:
        raise UserError(f"{len(images)} images for a batch of {batch_size}")
    return list(images[:len(images) // batch_size * batch_size].split(batch_size))


def _percentile(values: list[float], share: float) -> float:
    """The smallest of the values that `share` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 100) - 1)]
