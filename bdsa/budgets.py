"""The budget axis as data: validated, sorted and named once; everything else takes names from here."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Real

from bdsa.errors import UserError

SMALLEST = 1e-3  # that can be named and met


class Budget(float):
    """A fraction of the conditional MACs in (0, 1]: a number that knows its name and whether it is the dense network.

    Raises:
        UserError: for anything else; it names the value and the rule.
    """

    __slots__ = ()

    def __new__(cls, value: object) -> Budget:
        return super().__new__(cls, checked(value))

    @property
    def name(self) -> str:
        """What keys and files call it: 0.3 -> "b030", 0.335 -> "b0335", 1.0 -> "b100".

        The digits are those of the value with at least two decimals and without the dot, because
        trackers read a dot in a metric's name as nesting.
        """
        whole, _, decimals = repr(float(self)).partition(".")
        return f"b{whole}{decimals:0<2}"

    @property
    def is_dense(self) -> bool:
        """Whether every block runs everywhere: such a budget needs no masks and has none."""
        return self == 1.0


def checked(value: object) -> float:
    """Return `value` as a plain float in (0, 1], or raise UserError that names it and the rule."""
    if isinstance(value, bool) or not isinstance(value, Real):
        shown = " ".join(repr(value).split())[:60]  # of a tensor, many lines
        raise UserError(f"budget {shown} is not a number: a budget is a fraction in (0, 1], such as 0.5")
    number = float(value)
    if not 0.0 < number <= 1.0:
        hint = f" (did you mean {number / 100:g}?)" if 2.0 <= number <= 100.0 else ""
        raise UserError(f"budget {value} is outside (0, 1]: a budget is the fraction of the "
                        f"conditional MACs that may run{hint}")
    if number < SMALLEST:
        raise UserError(f"budget {value} is below {SMALLEST:g}, the smallest that can be named and met")
    return round(number, 6)


DENSE = Budget(1.0)


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
        given = [Budget(v) for v in values]
        if not given:
            raise UserError("the list of budgets is empty: give at least one, such as [0.5]")
        for value in given:
            if given.count(value) > 1:
                raise UserError(f"budget {value:g} is given twice in {given}: each budget may appear once")
        self.values: tuple[Budget, ...] = tuple(sorted(given))
        self._reachable = {float(b): b for b in (*self.values, DENSE)}

    @property
    def names(self) -> tuple[str, ...]:
        """The budgets' names, in their order."""
        return tuple(b.name for b in self.values)

    @property
    def adaptive(self) -> tuple[Budget, ...]:
        """The budgets below 1.0: those that own mask units and norms."""
        return tuple(b for b in self.values if not b.is_dense)

    @property
    def has_dense(self) -> bool:
        """Whether the dense network (budget 1.0) is in the list, so that it is trained too."""
        return self.values[-1].is_dense

    def plain(self) -> list[float]:
        """Plain numbers, for files that are read without this class."""
        return [float(b) for b in self.values]

    def has(self, value: float) -> bool:
        """Whether a network has this budget; the dense one is always there.

        Raises:
            UserError: for what is no budget.
        """
        return checked(value) in self._reachable

    def require(self, value: float) -> Budget:
        """Return a budget that a network has; the dense one (1.0) is always there.

        Raises:
            UserError: if the budget was not trained; it lists those that were.
        """
        number = checked(value)
        if number not in self._reachable:
            known = sorted(self._reachable)
            beside = [v for v in (max((k for k in known if k < number), default=None),
                                  min((k for k in known if k > number), default=None)) if v is not None]
            near, has = (", ".join(f"{v:g}" for v in values) for values in (beside, known))
            raise UserError(f"budget {number:g} was not trained (the nearest: {near}); this network has {has} "
                            f"(1 is dense)")
        return self._reachable[number]

    def at_step(self, step: int) -> Budget:
        """The budget that step `step` trains: round robin, never restarted."""
        return self.values[step % len(self.values)]

    def sandwich_at(self, step: int, between: int) -> tuple[Budget, ...]:
        """The largest budget, the smallest, and `between` of the others by turns: what step `step` trains together."""
        *others, largest = self.values
        smallest, middle = others[:1], others[1:]
        taken = (middle[(step * between + i) % len(middle)] for i in range(min(between, len(middle))))
        return (largest, *smallest, *taken)

    def __iter__(self) -> Iterator[Budget]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budgets) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)

    def __repr__(self) -> str:
        return f"Budgets([{', '.join(f'{v:g}' for v in self.values)}])"
