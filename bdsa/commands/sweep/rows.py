"""The command lines of a sweep's jobs: a grid of values, or a list of rows with a grid each.

A grid alone cannot say a table such as "no teacher, the own dense path as teacher, and shared norms with neither". Rows
can: each adds words to the grid's, and what it adds is what makes it that row.
"""
from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bdsa.errors import UserError, first_line, unknown

ALIASES = {"model": "model.name"}  # two spellings of one setting: the command line's replaces the sweep's


def chosen_rows(rows: Mapping[str, str], only: Sequence[str] | None) -> dict[str, str]:
    """The rows that were asked for, in the sweep's order, since later ones may need what earlier ones made.

    Raises:
        UserError: for a row that there is not, or rows asked of a sweep without any.
    """
    if only is None:
        return dict(rows)
    if not rows:
        raise UserError(f"hydra.sweeper.only={[*only]}: this sweep has no rows to choose from")
    for name in only:
        if name not in rows:
            raise unknown("row of the sweep", name, rows)
    if not only:
        raise UserError(f"hydra.sweeper.only is empty: give some of {', '.join(rows)}, or leave it out for all")
    return {name: words for name, words in rows.items() if name in only}


def in_rows(params: Mapping[str, str], rows: Mapping[str, str], arguments: Sequence[str]) -> list[list[str]]:
    """The command lines of all rows, for one combination of the params after another; none twice.

    So a sweep over seeds has all its rows with the first seed before it begins with the second.

    Args:
        params: settings of every row, each with its values as a command line has them: "0,1,2".
        rows: name -> words of a command line, which may hold several values too. They take the place of the params'.
        arguments: the command line's. They take the place of the params', and leave alone what a row is made of. All
            words of one job, as its environment.json has them, are that job.

    Raises:
        UserError: for what cannot be read, and for an argument that no row would take.
    """
    grid = _grid(params, arguments)
    own = [{_setting(o): o for o in _parsed(shlex.split(words))} for words in rows.values()]
    given = _parsed(arguments)
    if any(_is_job(params, words, given) for words in own):
        return [[value for override in given for value in _values(override)]]
    for override in given:
        if all(_setting(override) in words for words in own):
            raise UserError(f"{override.input_line}: every row of this sweep has its own {override.key_or_group} "
                            f"(rows: {', '.join(rows)}); hydra.sweeper.only=[...] chooses rows")
    found: dict[frozenset[str], list[str]] = {}
    for values in itertools.product(*map(_values, grid.values())):
        for words in own:
            shared = [value for setting, value in zip(grid, values) if setting not in words]
            for more in itertools.product(*map(_values, words.values())):
                found.setdefault(frozenset([*shared, *more]), [*shared, *more])
    return list(found.values())


def _is_job(params: Mapping[str, str], row: Mapping[str, Override], given: Sequence[Override]) -> bool:
    """Whether a command line has one value of each of a row's settings, which the row has too, and of each param."""
    named = {_setting(override): override for override in given}
    needed = {*row, *(ALIASES.get(name, name) for name in params)}
    return needed <= {*named} and not any(o.is_sweep_override() for o in given) and all(
        _values(named[setting])[0] in _values(own) for setting, own in row.items())


def combinations(params: Mapping[str, str], arguments: Sequence[str]) -> list[list[str]]:
    """The command lines of a grid's jobs, the last setting changing fastest.

    Args:
        params: a preset's settings, each with its values as a command line has them: "0.1,0.2".
        arguments: the command line's, which take the place of a preset's.

    Raises:
        UserError: for values that a grid cannot have, such as an interval.
    """
    return [list(words) for words in itertools.product(*map(_values, _grid(params, arguments).values()))]


def _grid(params: Mapping[str, str], arguments: Sequence[str]) -> dict[str, Override]:
    """The settings of a grid in order; of one that is given twice, the last counts."""
    own, given = _parsed([f"{name}={values}" for name, values in params.items()]), _parsed(arguments)
    return {_setting(o): o for o in (*own, *given)}


def _parsed(words: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise UserError(f"cannot read the sweep: {first_line(error)}") from error


def _setting(override: Override) -> str:
    return ALIASES.get(override.key_or_group, override.key_or_group)


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}" if not override.is_delete() else key]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: an interval has no end of values; list some, or search it with "
                        f"hydra/sweeper=search")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
