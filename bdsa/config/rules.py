"""Rules that a setting's value may break."""
from __future__ import annotations

from typing import Any

from bdsa.errors import UserError, unknown


def positive(section: Any, prefix: str, *names: str) -> None:
    """Raise UserError for the first of the named values that is not above zero."""
    for name in names:
        value = getattr(section, name)
        if value <= 0:
            raise UserError(f"{prefix}.{name}={value} must be above zero")


def within(section: Any, prefix: str, low: float, high: float, *names: str) -> None:
    """Raise UserError for the first of the named values that is not from `low` to `high`."""
    for name in names:
        value = getattr(section, name)
        if not low <= value <= high:
            rule = f"below {low:g}" if value < low else f"above {high:g}"
            raise UserError(f"{prefix}.{name}={value} must not be {rule}")


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `known`."""
    if value not in known:
        raise unknown(what, value, known)
