"""A network's inferences at some budgets as bytes that run without Python: what `native/program.h` reads.

One inference a budget is followed, operator by operator, as a recording is (`bdsa.sparse.recording`); but a program
names registers in place of memory, and no sizes, so that batch and image may have any.
"""
from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bdsa.budgets import DENSE
from bdsa.errors import UserError
from bdsa.method.cascade import Confidence
from bdsa.method.curves import NEAR, SHARES, Curve, Point, last_with
from bdsa.method.exact import ExactBudget, Expected
from bdsa.method.norms import Blend
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.points import HOW, NO_CONFIDENCE, find_point, mean_budget
from bdsa.sparse import native
from bdsa.sparse.block_step import BlockStep
from bdsa.sparse.dense import AsItIs
from bdsa.sparse.executor import Executor
from bdsa.sparse.follower import Follower, Instruction
from bdsa.sparse.planning import why_masked
from bdsa.sparse.program_bytes import Header, Pool, Range, encoded, joined, worded
from bdsa.sparse.watch import Watch

SIDES = (64, 224)  # of the image that is followed: what the smallest network can and every network should take


@dataclass(frozen=True)
class Program:
    """A network for any host of the kernels.

    Attributes:
        data: what `native/program.h` reads, uint8 [bytes].
        budgets: that it can be asked for.
        classes: of its logits.
        channels: of its images.
        precision: of its maps and weights.
        between: from which to which budget it can be asked for any; None: for `budgets` alone.
        cascade: whether it looks twice at images whose first answer is unsure, and a budget is what that costs as a
            mean over images.
    """
    data: Tensor
    budgets: tuple[float, ...]
    classes: int
    channels: int
    precision: str
    between: tuple[float, float] | None = None
    cascade: bool = False


@torch.inference_mode(False)  # whatever the caller's mode is
@torch.no_grad()
def program_of(network: AdaptiveNetwork, budgets: Sequence[float] | None = None, precision: str = "float32",
               between: bool = False, cascade: bool | None = None, extrapolate: bool | None = None) -> Program:
    """The program of a network in evaluation mode.

    Args:
        budgets: None: those that were trained, and 1. Any that the network can be asked for: those between, where it
            has curves, are packed as points of their own.
        precision: float32 or bfloat16.
        between: any budget above the smallest trained one too, by the network's curves. Between two trained ones
            norms are blended in quarters, each of which takes the weights once more.
        cascade: whether the program is the network's cascade (`bdsa.models.cascades`), which takes any mean budget and
            has the weights of its two looks and of the dense network; None: as the network's attribute says.
        extrapolate: whether budgets below the smallest trained one are allowed; None: likewise.

    Raises:
        UserError: for what the kernels cannot compute, with the layer's name, and for budgets that cannot be met.
    """
    if not isinstance(network, AdaptiveNetwork):
        raise UserError(f"a program is of an adaptive network that gives logits, not of a {type(network).__name__}")
    if network.training:
        raise UserError("a program is for inference: call network.eval() before")
    if reason := native.unavailable():
        raise UserError(f"a program needs the native kernels, which are not here: {reason}")
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"precision={precision} is unknown: a program is of float32 or bfloat16")
    network = _on_cpu(network)
    cascade = network.cascade if cascade is None else cascade
    known = network.confidence if cascade else None
    if cascade and known is None:
        raise UserError(NO_CONFIDENCE)
    if known and between:
        raise UserError("a cascade takes any mean budget as it is: leave out between=true")
    extrapolate = network.extrapolate if extrapolate is None else extrapolate
    asked = _asked(network, budgets, known, extrapolate)
    packed = sorted({*known.budgets, float(DENSE)}) if known else asked
    if between:  # what was trained is served unmoved
        packed = sorted({*asked, *map(float, network.budgets), float(DENSE)})
    ranges = [Range(budget, budget, network.point(budget, extrapolate)) for budget in packed]
    ranges += _between(network) if between else []
    form, channels = native.form(getattr(torch, precision)), network._channels()
    pool, codes, follower, blocks = Pool(), [], None, len(network.adaptive_blocks())
    for each in ranges:
        point = each.point
        name = point.name or DENSE.name
        watch = Watch(network, name, point.blend)
        if reason := watch.reason or watch.occupied():
            raise UserError(f"this network has no sparse execution: {reason}")
        executor = Executor.of(network, name, form, (), point.blend)
        _check(executor, network)
        follower = Follower(follower.registers if follower else None)
        followed, classes = _followed(executor, follower, channels, point, network)
        codes.append(encoded(followed, pool))
    header = Header(len(follower.registers), form.width, precision, classes, channels, blocks, known)
    words = worded(ranges, codes, header, network.curves)
    reach = (ranges[len(packed)].first, ranges[-1].last) if between else None
    if known:
        reach = known.budgets[0], known.most
    data = joined(words, pool)
    return Program(data, tuple(asked), classes, channels, precision, reach, known is not None)


def _on_cpu(network: AdaptiveNetwork) -> AdaptiveNetwork:
    """The network, or its copy on the CPU, where the kernels are, if its weights lie elsewhere."""
    tensors = [*network.parameters(), *network.buffers()]
    if all(t.device.type == "cpu" for t in tensors):
        return network
    moved = {id(t): nn.Parameter(t.cpu(), False) if isinstance(t, nn.Parameter) else t.cpu() for t in tensors}
    return copy.deepcopy(network, moved)


def _asked(network: AdaptiveNetwork, budgets: Sequence[float] | None, cascade: Confidence | None, extrapolate: bool
           ) -> list[float]:
    """The budgets that a program is wanted for, ascending; by themselves those that were trained, and 1."""
    given = [*network.budgets, DENSE] if budgets is None else budgets
    if cascade is None:
        return sorted({float(find_point(network.budgets, network.curves, b, extrapolate)[0]) for b in given})
    within = [b for b in given if budgets is not None or b == DENSE or cascade.reaches(b)]
    return sorted({float(mean_budget(cascade, b)) for b in within})


def _between(network: AdaptiveNetwork) -> list[Range]:
    """What serves the budgets between those that were trained, and above the largest below 1."""
    trained = network.budgets.adaptive
    if not network.curves or not trained:
        raise UserError(f"budgets between need the network's curves: {HOW}")
    ranges = []
    for base, following in zip(trained, [*trained[1:], None]):
        curve = network.curves[base.name]
        if following is None:
            ranges += _served(curve, float(base), 1.0, Point(base.name))
            continue
        first, end = float(base), curve.serves_to(base, following)
        for step in range(SHARES + 1):
            last = last_with(step, base, following)
            blend = Blend(base.name, following.name, step / SHARES) if step else None
            ranges += _served(curve, first, min(last, end), Point(base.name, blend=blend))
            first = last
        ranges += _served(network.curves[following.name], end, float(following), Point(following.name))
    return ranges


def _served(curve: Curve, first: float, last: float, point: Point) -> list[Range]:
    """The part of these budgets that a curve reaches, served at a point: one range, or none."""
    low, high = max(first, curve.fractions[0] - NEAR), min(last, curve.fractions[-1] + NEAR)
    return [Range(low, high, point, curve)] if low < high else []


def _check(executor: Executor, network: nn.Module) -> None:
    """Raise UserError for what runs as PyTorch operators, before anything does."""
    names = {id(module): name for name, module in network.named_modules()}
    if executor.head is None or "forward_head" in vars(network):
        raise UserError(f"the head of this {type(network).__name__} has no native form, and cannot be exported")
    for step in (*executor.steps, *executor.head):
        if isinstance(step, BlockStep) and step.plan is None:
            raise UserError(f"block {names[id(step.block)]} cannot be exported: it has {why_masked(step.block)}, for "
                            f"which there is no native form")
        if isinstance(step, AsItIs):
            raise UserError(f"layer {names.get(id(step.module), '?')} cannot be exported: {type(step.module).__name__} "
                            f"has no native form")


def _followed(executor: Executor, follower: Follower, channels: int, point: Point, network: nn.Module
              ) -> tuple[list[Instruction], int]:
    """The instructions of one inference, with those by which purses decide, and the number of its logits.

    What is in the purses plays no part.
    """
    expected = Expected.of([0] * len(executor.blocks()), None)
    names = {id(module): name for name, module in network.named_modules()}

    def at(step: BlockStep, x: Tensor) -> None:
        follower.where = f"block {names[id(step.block)]}"

    for side in SIDES:
        image = torch.zeros(1, channels, side, side)
        follower.begin(image)
        try:
            with follower:
                exact = None if point.name is None else ExactBudget(1.0, expected)
                features, _, _ = executor.run(executor.take_in(image), None, False, at, None, point.offset, exact)
                follower.where = "the head"
                logits = executor._logits(features)
            return follower.end(logits), logits.shape[1]
        except ValueError as error:
            if side == SIDES[-1] or "too small" not in str(error):
                raise
            executor.workspace.rooms.clear()
    raise AssertionError("unreachable")
