"""Gradients averaged over the processes while the backward pass that makes them still runs.

DistributedDataParallel does that for one backward pass a step that reaches every parameter. A step here may be several
backward passes, of different budgets, and a budget leaves the mask units and norms of the others alone. Under no_sync
that gives wrong gradients silently; find_unused_parameters sends all gradients, of every pass, and static_graph takes
the first step's budget for all. So it is done here: what a pass reached is sent, and no more; what it left alone
keeps a gradient of None, with which no optimiser moves it.
"""
from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bdsa.distributed import average_gradients, share, unpack, world

BUCKET = 25 * 2 ** 20  # bytes that are sent at once


class GradientAveraging:
    """Averages the gradients of some parameters over all processes; in one process it does nothing.

    In which order gradients come is seen in the first pass of a kind, and shared; later passes of this kind send
    gradients in buckets of that order, each as soon as it is full.

    Args:
        parameters: of a network, the same in every process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.buckets: dict[Hashable, list[list[int]]] = {}  # kind of a pass -> numbers of parameters
        self.kind: Hashable | None = None
        self.sent: list[tuple[dist.Work, Tensor, list[Tensor]]] = []
        if world() > 1:
            for number, parameter in enumerate(self.parameters):
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def begin(self, kind: Hashable) -> None:
        """The backward pass that comes is the last one before `finish`.

        Args:
            kind: of which all passes reach the same parameters, such as a budget.
        """
        if world() > 1:
            self.kind, self.order, self.sent = kind, [], []
            buckets = self.buckets.get(kind, [])
            self.place = {number: place for place, bucket in enumerate(buckets) for number in bucket}
            self.missing = [len(bucket) for bucket in buckets]

    def _arrived(self, number: int, parameter: nn.Parameter) -> None:
        """A parameter has its gradient: send the buckets that are full, in order, so that all processes do alike."""
        if self.kind is None:
            return
        self.order.append(number)
        if (place := self.place.get(number)) is not None:
            self.missing[place] -= 1
            while len(self.sent) < len(self.missing) and not self.missing[len(self.sent)]:
                self._send(self.buckets[self.kind][len(self.sent)])

    def _send(self, bucket: list[int]) -> None:
        gradients = [g for n in bucket if (g := self.parameters[n].grad) is not None] or [torch.zeros(1)]
        flat = torch.cat([g.flatten() for g in gradients])
        self.sent.append((dist.all_reduce(flat, async_op=True), flat, gradients))

    def finish(self) -> None:
        """After the backward pass: wait for what was sent, and average what was not, such as of earlier passes."""
        kind, self.kind = self.kind, None
        if world() == 1 or kind is None:
            return average_gradients(self.parameters)
        if kind not in self.buckets:
            self.buckets[kind] = share(self._grouped(self.order))
        for bucket in self.buckets[kind][len(self.sent):]:  # in the first pass all of them: the sums are the same
            self._send(bucket)
        for work, flat, gradients in self.sent:
            work.wait()
            unpack(flat / world(), gradients)
        self.sent = []
        averaged = {number for bucket in self.buckets[kind] for number in bucket}
        average_gradients(p for number, p in enumerate(self.parameters) if number not in averaged)

    def _grouped(self, order: list[int]) -> list[list[int]]:
        """Numbers of parameters in buckets of one type and of BUCKET bytes, or little more."""
        found: list[list[int]] = []
        bytes_, dtype = BUCKET, None
        for number in order:
            parameter = self.parameters[number]
            if bytes_ >= BUCKET or parameter.dtype != dtype:
                found.append([])
                bytes_, dtype = 0, parameter.dtype
            found[-1].append(number)
            bytes_ += parameter.nbytes
        return found
