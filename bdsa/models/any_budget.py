"""What a network adds to its trained budgets: any between, one an image, one that no image exceeds, and a deadline."""
from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting

from bdsa.budgets import DENSE, Budget, Budgets
from bdsa.errors import UserError
from bdsa.method.cascade import Confidence
from bdsa.method.curves import Curve, Point
from bdsa.method.exact import ExactBudget, Expected
from bdsa.method.macs import count_dense_macs
from bdsa.models.asking import asking
from bdsa.models.block_totals import block_totals
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.deadlines import Plan, budget_within, name_of
from bdsa.models.points import check_mean, find_point, mean_budget
from bdsa.models.usage import Usage

OR_SPARSE = "or, for logits, export it sparsely (network.execution = 'sparse', or bdsa.portable), which takes any"
SIZES = 256  # of images, of which is kept what blocks cost
BATCHES = (1, 2, 8, 64)  # the smallest of each class of batches: which way is faster is found for each
Asking = float | Point | Sequence[float] | Tensor  # what a forward pass takes for a budget


def latest(known: dict[Any, Any]) -> dict[Any, Any]:
    """A copy of what is kept by sizes of images, with room for another: a server may meet any number of them."""
    return dict([*known.items()][-SIZES + 1:])


class AnyBudget(nn.Module):
    """The budget axis of an adaptive network, beyond the points that were trained.

    Attributes:
        budgets: those that were trained.
        curves: by the name of each below 1, what moved thresholds give; empty until they are measured or loaded
            (`bdsa.calibrate_curves`).
        confidence: how sure first answers are, for cascades; None until it is measured or loaded
            (`bdsa.calibrate_confidence`).
        plans: how long budgets take here; see `bdsa.plan`.
        ranges: for int8, by the layer's name the lowest and highest value that it reads; empty until `bdsa.quantize`.
        per_image, extrapolate, cascade: what a call means that does not say; see `forward`.
    """

    budgets: Budgets
    curves: Mapping[str, Curve] = {}
    confidence: Confidence | None = None
    plans: tuple[Plan, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = {}
    per_image = False
    extrapolate = False
    cascade = False
    execution: str
    precision: str
    _dense_macs: dict[tuple[Any, ...], int]
    _block_macs: dict[tuple[int, int], list[int]]
    _expected: dict[tuple[Any, ...], tuple[Curve | None, Expected]]

    def set_budgets(self, budgets: Budgets) -> None:
        """Remember which budgets the blocks were given (called by `adapt`)."""
        self.budgets = budgets
        self._dense_macs, self._block_macs, self._expected = {}, {}, {}

    def adaptive_blocks(self) -> list[AdaptiveBlock]:
        """`AdaptiveNetwork.adaptive_blocks`."""
        raise NotImplementedError

    def point(self, budget: float | Point, extrapolate: bool | None = None) -> Point:
        """Where the network runs at a budget.

        Raises:
            UserError: for a budget that cannot be met; see `forward`.
        """
        if isinstance(budget, Point):
            return budget
        return self._find(budget, extrapolate)[1]

    def require(self, budget: float, extrapolate: bool | None = None, cascade: bool | None = None) -> Budget:
        """The budget as one that this network can be asked for: a trained one, 1, or any by curves or a cascade.

        Raises:
            UserError: for any other.
        """
        twice = self.cascade if cascade is None else cascade
        return mean_budget(self.confidence, budget) if twice else self._find(budget, extrapolate)[0]

    def usual(self, cascade: bool | None = None) -> list[Budget]:
        """The trained budgets and 1, ascending; of a cascade those that it reaches."""
        known = self.confidence if (self.cascade if cascade is None else cascade) else None
        return sorted(budget for budget in {*self.budgets, DENSE}
                      if known is None or budget.is_dense or known.reaches(budget))

    def _find(self, budget: float, extrapolate: bool | None) -> tuple[Budget, Point]:
        return find_point(self.budgets, self.curves, budget, self.extrapolate if extrapolate is None else extrapolate)

    @staticmethod
    def several(budget: object) -> bool:
        """Whether budgets are given one an image."""
        return isinstance(budget, (list, tuple)) or (isinstance(budget, Tensor) and budget.ndim > 0)

    def each(self, x: Tensor, budgets: Sequence[float] | Tensor, return_usage: bool, masks: Sequence[Tensor] | None,
             more: dict[str, Any]) -> Tensor | tuple[Tensor, Usage]:
        """A forward pass with a budget an image: images of one budget run together, and the order is kept.

        Args:
            x: [B, 3, H, W].
            budgets: B of them.
            return_usage, masks, more: as `forward` takes them.
        """
        values = budgets.tolist() if isinstance(budgets, Tensor) else list(budgets)
        if len(values) != len(x) or not values:
            raise UserError(f"{len(values)} budgets for {len(x)} images: give one budget, or one an image")
        places: dict[Budget, list[int]] = {}
        for i, value in enumerate(values):
            places.setdefault(self._find(value, more["extrapolate"])[0], []).append(i)
        if len(places) == 1:
            return self.forward(x, next(iter(places)), return_usage, masks=masks, **more)
        parts, used = [], []
        for budget, rows in places.items():
            index = torch.tensor(rows, device=x.device)
            given = None if masks is None else [mask[index] for mask in masks]
            out = self.forward(x[index], budget, return_usage, masks=given, **more)
            parts.append(out[0] if return_usage else out)
            used += [out[1]] if return_usage else []
        order = torch.tensor([i for rows in places.values() for i in rows], device=x.device).argsort()
        logits = torch.cat(parts)[order]
        return (logits, Usage.join(used, order)) if return_usage else logits

    def exact(self, point: Point, size: tuple[int, int], per_image: bool | None, blocks: int | None = None
              ) -> ExactBudget | None:
        """The purses of images of (height, width), for one pass at a point; None where a threshold decides.

        Args:
            blocks: how many of the network's blocks share a purse, from the first on; None: all.

        Raises:
            UserError: in training mode, and where torch.export leaves the size open.
        """
        if not self.decides_exactly(point, per_image):
            return None
        _check_fixed(size)
        return self._purses(point, (size, blocks), lambda: self.block_macs(size)[:blocks])

    def decides_exactly(self, point: Point, per_image: bool | None) -> bool:
        """Whether purses decide at a point.

        Raises:
            UserError: in training mode, and where masked execution is exported with `per_image` as an input.
        """
        if isinstance(per_image, Tensor) and is_exporting():
            raise UserError(f"per_image is no input of a masked network's export: give True or False, {OR_SPARSE}")
        if point.name is None or not (self.per_image if per_image is None else per_image):
            return False
        if self.training:
            raise UserError("per_image=True is for inference: call network.eval() before")
        return point.budget is not None

    def exact_from(self, point: Point, x: Tensor) -> ExactBudget:
        """The purses for one pass at a point, of blocks that are called by others, by the input of the first of them.

        Args:
            x: [B, C, h, w].
        """
        shape = tuple(x.shape[1:])
        _check_fixed(shape)
        return self._purses(point, shape, lambda: block_totals(self, (1, *shape), from_first=True))

    def _purses(self, point: Point, of: tuple[Any, ...], totals: Callable[[], list[int]]) -> ExactBudget:
        assert point.name is not None and point.budget is not None
        curve, key = self.curves.get(point.name), (point.name, *of)
        kept = self._expected.get(key)
        if kept is None or kept[0] is not curve:
            with torch.inference_mode(False):  # it outlives the caller's mode
                kept = curve, Expected.of(totals(), curve)
            self._expected = {**latest(self._expected), key: kept}
        return ExactBudget(point.budget, kept[1], point.offset)

    @torch.inference_mode()
    def warm_up(self, shapes: Iterable[Sequence[int]], budgets: Iterable[float] | None = None,
                per_image: bool | None = None, cascade: bool | None = None) -> None:
        """Do now what the first calls would wait for: build and pack, find each block's faster way, record.

        Afterwards no call measures which way is faster: an input of another shape goes as the nearest one that was
        warmed up, so that its first call does not stall.

        Args:
            shapes: of inputs, (B, C, H, W) each.
            budgets: None: those that were trained, and 1 (`usual`).
            per_image: whether the calls to come will ask for budgets that no image exceeds; see `forward`.
            cascade: whether they will look twice: both looks are warmed up, the second one with fewer images too.

        Raises:
            UserError: in training mode, for what is no shape, and for a budget that cannot be met.
        """
        if self.training:
            raise UserError("warm_up is for inference: call network.eval() before")
        twice = self.cascade if cascade is None else cascade
        if twice:
            check_mean({"per_image": self.per_image if per_image is None else per_image})
        asked = [self.require(b, cascade=twice) for b in (self.usual(twice) if budgets is None else budgets)]
        wanted = [tuple(shape) for shape in shapes]
        if bad := [s for s in wanted if len(s) != 4 or s[1] != self._channels() or not all(n > 0 for n in s)]:
            raise UserError(f"{bad[0]} is no shape of this network's input: give (B, {self._channels()}, H, W)")
        like = next(self.parameters())
        inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like) for shape in wanted]
        for _ in range(2):  # what comes again is recorded, or captured; a larger shape undoes what was before
            for x in inputs:
                for budget in (b for b in asked if not twice or b.is_dense):
                    self(x, budget=budget, per_image=per_image, cascade=False)
                for images, look in self._looks(x) if twice else ():
                    self(images, budget=look, per_image=False, cascade=False)
        importlib.import_module("bdsa.sparse.execution").settle(self)  # by its name: it is made of what is here

    def _looks(self, x: Tensor) -> list[tuple[Tensor, float]]:
        """Images and budget of each look that a cascade may take at images x; none where only 1 was asked for."""
        if self.confidence is None:
            return []
        first, second = self.confidence.budgets
        return [(x, first), *((x[:images], second) for images in {len(x), *BATCHES} if images <= len(x))]

    def planned(self, latency_ms: float, x: Tensor, budget: object, per_image: bool | None) -> tuple[float, bool]:
        """The budget for a deadline, and whether no image may exceed it; see `bdsa.plan`.

        Raises:
            UserError: where both are given, no plan is of such images here, the plan's `per_image` is another, or the
                deadline cannot be met.
        """
        if budget is not None:
            raise UserError("a budget and latency_ms are two answers to one question: give one of them")
        found, exactly = budget_within(self.plans, latency_ms, (
            tuple(x.shape), self.execution, self.precision, name_of(x.device), torch.get_num_threads()))
        if per_image is not None and per_image != exactly:
            raise UserError(f"per_image={per_image}, and the plan for such images was measured with "
                            f"per_image={exactly}: leave it out, or bdsa.plan(network, latency_ms={latency_ms:g}, "
                            f"..., per_image={per_image}) measures another")
        return found, exactly

    def dense_macs(self, size: tuple[int, int]) -> int:
        """MACs of the dense network for one image of (height, width), counted once per size and classifier."""
        *_, head = self.children()  # the classifier, which may be replaced
        key = (*size, *(tuple(p.shape) for p in head.parameters()))
        found = self._dense_macs.get(key)
        if found is None:
            found = count_dense_macs(
                self, size, self._channels(), lambda own: asking(own, own.adaptive_blocks(), Point(None), None))
            self._dense_macs = {**latest(self._dense_macs), key: found}
        return found

    def block_macs(self, size: tuple[int, int]) -> list[int]:
        """Conditional MACs of each adaptive block for one image of (height, width), counted once per size."""
        found = self._block_macs.get(size)
        if found is None:
            found = block_totals(self, (1, self._channels(), *size))
            self._block_macs = {**latest(self._block_macs), size: found}
        return found

    def _channels(self) -> int:
        """Of the images that the network reads; networks of one's own often have an attribute `channels`."""
        return next(m for m in self.modules() if isinstance(m, nn.Conv2d)).in_channels


def _check_fixed(sides: Iterable[int]) -> None:
    """Raise UserError where torch.export leaves a side of the images open: purses are filled by their size."""
    if any(isinstance(side, torch.SymInt) for side in sides):
        raise UserError(f"per_image=True in a masked network's export needs images of one height and width: leave only "
                        f"the batch dynamic, {OR_SPARSE}")
