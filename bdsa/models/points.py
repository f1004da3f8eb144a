"""Which masks and norms serve a budget, and how far their thresholds move: a trained one's own, or a neighbour's."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bdsa.budgets import Budget, Budgets
from bdsa.errors import UserError
from bdsa.method.cascade import Confidence
from bdsa.method.curves import Curve, Point, share_at
from bdsa.method.norms import Blend

HOW = "bdsa.calibrate_curves(network, batches of training images), or bdsa-evaluate, measures them"
NO_CONFIDENCE = ("a cascade needs to know how sure first answers are: bdsa.calibrate_confidence(network, batches of "
                 "images that it was not trained on), or bdsa-evaluate cascade=true, measures it")


def find_point(trained: Budgets, curves: Mapping[str, Curve], value: float, extrapolate: bool = False
               ) -> tuple[Budget, Point]:
    """The budget that is asked for, and where a network runs at it.

    A trained budget runs as it was trained. Any other below 1 runs at a trained budget's masks and norms, with the
    thresholds moved as its curve says.

    Args:
        trained: the network's budgets.
        curves: a curve for each of them below 1, by name, or none at all.
        value: the budget.
        extrapolate: also below the smallest trained budget.

    Raises:
        UserError: for what is no budget, one that cannot be met, or one below the smallest without `extrapolate`.
    """
    if trained.has(value):
        budget = trained.require(value)
        return budget, Point(None if budget.is_dense else budget.name, 0.0, float(budget))
    budget = Budget(value)
    if not trained.adaptive or not curves:
        try:
            trained.require(value)
        except UserError as error:
            raise UserError(f"{error}{_lacking(trained, budget, extrapolate)}") from None
    check_reach(trained, budget, extrapolate)
    base, following = neighbours(trained, budget)
    if following is not None and budget > curves[base.name].serves_to(base, following):
        base, following = following, None
    share = 0.0 if following is None else share_at(budget, base, following)
    curve = curves[base.name]
    if not curve.reaches(budget):
        low, high = curve.fractions[0], curve.fractions[-1]
        raise UserError(f"budget {budget:g} is outside what moved thresholds reach, {low:.3g} to {high:.3g}")
    blend = Blend(base.name, following.name, share) if following is not None and share else None
    return budget, Point(base.name, curve.offset_at(budget), float(budget), blend)


def check_reach(trained: Budgets, budget: float, extrapolate: bool) -> None:
    """Raise UserError for a budget below the smallest trained one, unless it is extrapolated."""
    smallest = trained.values[0]
    if budget < smallest and not extrapolate:
        raise UserError(f"budget {budget:g} is below {smallest:g}, the smallest that this network was trained for: "
                        f"accuracy falls off there; extrapolate=True runs it all the same")


def _lacking(trained: Budgets, budget: float, extrapolate: bool) -> str:
    """What keeps a network without curves from a budget that was not trained; it goes on with what `require` says."""
    if not trained.adaptive:
        return ""
    if budget < trained.values[0] and not extrapolate:
        return (f"; it is below the smallest, {trained.values[0]:g}, where accuracy falls off: extrapolate=True runs "
                f"it all the same in a network with curves: {HOW}")
    return f"; for any budget between, its curves are missing: {HOW}"


def neighbours(trained: Budgets, budget: float) -> tuple[Budget, Budget | None]:
    """The trained budgets below 1 around another: the one below it, and the next, if there is one.

    Below the smallest it is that one, alone; above the largest that one.
    """
    below = [b for b in trained.adaptive if b <= budget]
    if not below:
        return trained.adaptive[0], None
    return below[-1], next((b for b in trained.adaptive if b > budget), None)


def mean_budget(known: Confidence | None, value: float) -> Budget:
    """A budget that a cascade can have as a mean over images; 1 is the dense network, in one look.

    Raises:
        UserError: for any other, and where no confidence was measured.
    """
    budget = Budget(value)
    if budget.is_dense:
        return budget
    if known is None:
        raise UserError(NO_CONFIDENCE)
    if budget < known.budgets[0]:
        raise UserError(f"budget {budget:g} is below {known.budgets[0]:g}, at which this cascade looks at every image")
    if budget > known.most:
        raise UserError(f"budget {budget:g} is above {known.most:.3g}, which this cascade spends where it looks at "
                        f"every image twice, at {known.budgets[0]:g} and {known.budgets[1]:g}")
    return budget


def check_mean(others: dict[str, Any]) -> None:
    """Raise UserError where what is asked for beside a cascade, by name, contradicts it: all must be None or False."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise UserError(f"cascade=True meets one budget as a mean over images, which {name} contradicts: leave out "
                            f"one of them")
