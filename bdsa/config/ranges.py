"""`budgets.targets=[0.3:1.0:0.05]`: budgets from one to another, written out before Hydra reads the command line."""
from __future__ import annotations

import re

from bdsa.errors import UserError

NAME = "budgets.targets"
MOST = 1000  # budgets of a range
_RANGE = re.compile(r"(?<=[\[,])[^\[\],]*:[^\[\],]*(?=[\],])")  # an item of a list, also where several lists are swept
_ITEM = re.compile(r"\s*([^\[\],:]+):([^\[\],:]+):([^\[\],:]+)\s*")


def with_ranges(argument: str) -> str:
    """An argument of a command line; in a list of budgets FIRST:LAST:STEP becomes all of them, the last too.

    Raises:
        UserError: for a range that names no budgets.
    """
    name, _, value = argument.partition("=")
    if name.lstrip("+") != NAME:
        return argument
    return f"{name}={_RANGE.sub(lambda match: ','.join(_values(match[0], argument)), value)}"


def _values(item: str, argument: str) -> list[str]:
    match = _ITEM.fullmatch(item)
    try:
        first, last, step = map(float, match.groups()) if match else ()
        count = int((last - first) / step + 1e-6) + 1 if step > 0 else 0
    except (ValueError, OverflowError):
        count = 0
    if not 0 < count <= MOST:
        raise UserError(f"{argument}: {item.strip()} is no range of up to {MOST:,} budgets: write FIRST:LAST:STEP, "
                        f"such as [0.3:1.0:0.05]")
    return [f"{round(first + i * step, 6):g}" for i in range(count)]
