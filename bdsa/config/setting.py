"""A setting: its default, what it means and which values it takes, declared in one line of a dataclass.

    lr: float = setting(2e-3, "peak learning rate", above=0, at_most=1e3)

`--help` prints the meaning, `check_settings` holds every value against its rule, and a test demands bounds of every
number, so that none is without them.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from bdsa.errors import UserError, unknown

Choices = tuple[str, ...] | Callable[[], tuple[str, ...]]  # a function where plug-ins add some

# What a list holds: OmegaConf converts single values, but takes a dictionary in a list of numbers.
ITEMS: dict[str, type | tuple[type, ...]] = {
    "list[float]": (int, float), "list[int]": int, "list[str]": str, "Any": object}


@dataclass(frozen=True)
class Rule:
    """Which values a setting takes; of a list, which each of its items may be."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: Choices | None = None
    check: Callable[[Any], object] | None = None  # raises UserError, in place of bounds, for the value as a whole

    @property
    def known(self) -> tuple[str, ...]:
        """The choices that there are now."""
        return self.choices() if callable(self.choices) else self.choices or ()

    @property
    def bounded(self) -> bool:
        """Whether a number has a bound on both sides."""
        return self.check is not None or ({self.at_least, self.above} != {None} != {self.at_most, self.below})

    def broken_by(self, value: Any) -> str:
        """What the rule says against a value, or an empty string."""
        if isinstance(value, float) and not math.isfinite(value):
            return "is not a finite number"
        if self.at_least is not None and self.at_most is not None and not self.at_least <= value <= self.at_most:
            return f"must be from {self.at_least:,g} to {self.at_most:,g}"
        if self.at_least is not None and value < self.at_least:
            return f"must not be below {self.at_least:,g}"
        if self.above is not None and value <= self.above:
            return f"must be above {'zero' if self.above == 0 else f'{self.above:,g}'}"
        if self.at_most is not None and value > self.at_most:
            return f"must not be above {self.at_most:,g}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below:,g}"
        return ""


def setting(default: Any, meaning: str, **rule: Any) -> Any:
    """Declare a setting of a dataclass.

    Args:
        default: a list or dictionary is copied for every config.
        meaning: what `--help` says of it, with its unit where it has one.
        rule: the fields of `Rule`.
    """
    metadata = {"meaning": meaning, "rule": Rule(**rule)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def rules(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Rule, str]]:
    """Every setting of a config, sections included: its dotted name, its value, its rule and its declared type."""
    for item in fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from rules(value, f"{name}.")
        elif "rule" in item.metadata:
            yield name, value, item.metadata["rule"], str(item.type)


def check_settings(config: Any, prefix: str = "") -> None:
    """Raise UserError for the first value that breaks its setting's rule; None is always allowed where it can be."""
    for name, value, rule, declared in rules(config, prefix):
        if rule.check is not None and value is not None:
            rule.check(value)
        kind = declared.removesuffix(" | None")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(value, list) and not isinstance(item, ITEMS[kind]):
                raise UserError(f"{name}={value}: {item} is of the wrong type for {kind}")
            if isinstance(item, str) and rule.choices is not None and item not in rule.known:
                raise unknown(f"value of {name}", item, rule.known)
            if isinstance(item, (int, float)) and not isinstance(item, bool) and (broken := rule.broken_by(item)):
                raise UserError(f"{name}={value}{f': {item}' if isinstance(value, list) else ''} {broken}")
