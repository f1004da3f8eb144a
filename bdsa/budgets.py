"""The budget axis as data: validated, sorted and named once; everything else takes names from here."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Real

from bdsa.errors import UserError, nearest

DENSE = 1.0
DENSE_NAME = "b100"


def budget_name(value: float) -> str:
    """Name a budget for keys and files: 0.3 -> "b030", 0.335 -> "b0335", 1.0 -> "b100".

    The digits are those of the value with at least two decimals and without the dot, because
    trackers read a dot in a metric's name as nesting.
    """
    text = repr(round(float(value), 6))
    whole, _, decimals = text.partition(".")
    return f"b{whole}{decimals:0<2}"


def check_budget(value: object) -> float:
    """Return `value` as a float in (0, 1], or raise UserError that names it and the rule."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"budget {value!r} is not a number: a budget is a fraction in (0, 1], such as 0.5")
    number = float(value)
    if not 0.0 < number <= 1.0:
        hint = f" (did you mean {number / 100:g}?)" if 2.0 <= number <= 100.0 else ""
        raise UserError(f"budget {value} is outside (0, 1]: a budget is the fraction of the "
                        f"conditional MACs that may run{hint}")
    if number < 1e-3:
        raise UserError(f"budget {value} is below 0.001, the smallest that can be named and met")
    return round(number, 6)


class Budgets:
    """A sorted set of budgets b1 < ... < bN in (0, 1], each with one name.

    Args:
        values: the budgets; any order, at least one, no duplicates.

    Raises:
        UserError: for a value outside (0, 1], a duplicate or an empty list.
    """

    def __init__(self, values: Iterable[float]) -> None:
        if isinstance(values, (str, Real)):
            raise UserError(f"budgets {values!r} is not a list: write [{values}]")
        checked = [check_budget(v) for v in values]
        if not checked:
            raise UserError("the list of budgets is empty: give at least one, such as [0.5]")
        for value in checked:
            if checked.count(value) > 1:
                raise UserError(f"budget {value:g} is given twice in {checked}: each budget may appear once")
        self.values: tuple[float, ...] = tuple(sorted(checked))
        self.names: tuple[str, ...] = tuple(budget_name(v) for v in self.values)

    @property
    def adaptive(self) -> dict[str, float]:
        """Name -> value of the budgets below 1.0: those that own mask units and norms."""
        return {n: v for n, v in zip(self.names, self.values) if v < DENSE}

    @property
    def has_dense(self) -> bool:
        """Whether the dense network (budget 1.0) is in the list, so that it is trained too."""
        return self.values[-1] == DENSE

    def require(self, value: float) -> str:
        """Return the name of a budget that a network has; the dense one (1.0) is always there.

        Raises:
            UserError: if the budget was not trained; it lists those that were.
        """
        number = check_budget(value)
        if number != DENSE and number not in self.values:
            known = [f"{v:g}" for v in sorted({*self.values, DENSE})]
            raise UserError(f"budget {number:g} was not trained{nearest(f'{number:g}', known)}; "
                            f"this network has {', '.join(known)} (1 is dense)")
        return budget_name(number)

    def at_step(self, step: int) -> float:
        """The budget that step `step` trains: round robin, never restarted."""
        return self.values[step % len(self.values)]

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budgets) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)

    def __repr__(self) -> str:
        return f"Budgets([{', '.join(f'{v:g}' for v in self.values)}])"
