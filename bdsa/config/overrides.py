"""NAME=VALUE of a command line, checked before Hydra composes: its own messages do not say what was meant."""
from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bdsa.config.names import WEIGHT_SUFFIXES
from bdsa.config.pipeline import STAGE_SETTINGS
from bdsa.config.quoting import quoted_argument, quoted_value
from bdsa.config.schema import setting_names, unknown_setting
from bdsa.errors import UserError, first_line, nearest, unknown

# Below these any name is allowed: another library checks them, or the pipeline.
FREE = ("model.args.", *STAGE_SETTINGS)


def expand(argument: str, options: dict[str, list[str]]) -> list[str]:
    """`model=NAME` and `teacher=NAME or FILE` for any model, not only those with a file under conf/."""
    group, _, value = argument.partition("=")
    if group.startswith(STAGE_SETTINGS):
        return [f"++{argument}"]  # they are there only once they are set
    if group not in ("model", "teacher") or group not in options or not value:
        return [argument]
    if all(v in options[group] for v in value.split(",")):
        return [argument]
    if group == "model":
        return [f"model.name={value}"]
    plain = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    if Path(plain).suffix in WEIGHT_SUFFIXES:
        as_it_is = plain != value or any(mark in value for mark in (",", "${", "\\"))  # what Hydra reads in them
        return ["teacher=checkpoint", f"teacher.weights={value if as_it_is else quoted_value(value)}"]
    return [argument] if nearest(value, options[group]) or "," in value else ["teacher=model", f"teacher.name={value}"]


def check_overrides(overrides: list[str], schema: type, options: dict[str, list[str]]) -> list[Override]:
    """What the overrides say; UserError for the first that names no setting, group or option, or cannot be read."""
    known, lists = set(setting_names(schema)), _settings(schema, list)
    sections = {k.rpartition(".")[0] for k in known} - {""}
    parsed = [_parsed(argument, schema) for argument in overrides]
    for override in parsed:
        name = override.key_or_group
        if name.startswith("hydra"):
            continue
        if override.is_delete():
            if name.startswith(FREE):
                continue
            if name not in known | sections | {*options}:
                raise unknown_setting(name, schema)
            raise UserError(f"{override.input_line}: nothing can be taken away; leave {name} out for its default")
        if name in lists:
            _check_list(name, override)
        if name in options:
            values = _values(override)
            if any(not isinstance(v, (str, dict)) for v in values):
                hint = f": write {override.input_line.replace('=', '.targets=', 1)}" if name == "budgets" else ""
                raise UserError(f"{override.input_line} is no option of {name} ({', '.join(options[name])}){hint}")
            for value in (v for v in values if isinstance(v, str)):
                if value not in options[name]:
                    raise unknown(f"option of {name}", value, options[name])
        elif name in sections and not isinstance(override.value(), dict):
            raise UserError(f"{override.input_line}: {name} is a section, set its values: "
                            f"{', '.join(k for k in sorted(known) if k.startswith(name + '.'))}")
        elif name not in known | sections and not name.startswith(FREE):
            raise unknown_setting(name, schema)
    return parsed


def _parsed(argument: str, schema: type) -> Override:
    """An argument as Hydra reads it, or UserError, which shows how it is quoted where its value can be a text."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        name, given, _ = argument.partition("=")
        name = name.lstrip("+~")
        if given and argument.isprintable() and (name in _settings(schema, str, Any) or name.startswith(FREE)):
            raise UserError(f"{argument} holds characters with a meaning of their own; quoted for a shell: "
                            f"{quoted_argument(argument)}") from error
        shown = argument if argument.isprintable() else repr(argument)
        raise UserError(f"cannot read {shown}: {first_line(error)}") from error


def _check_list(name: str, override: Override) -> None:
    """Raise UserError for one value where a list is needed; a text may be empty, or stand for a list (`${...}`)."""
    for value in _values(override):
        one = isinstance(value, (int, float)) or (isinstance(value, str) and name != "plugins" and "${" not in value)
        if isinstance(value, dict) or (one and value != ""):
            hint = f": write {name}=[{value:g}]" if isinstance(value, float) else f": write {name}=[{value}]"
            raise UserError(f"{override.input_line} is not a list{hint if one else ''}")


def _values(override: Override) -> list[Any]:
    """The values that an override gives, one after another in a sweep; none where a sweep is an interval."""
    return getattr(override.value(), "list", []) if override.is_sweep_override() else [override.value()]


def _settings(schema: type, *kinds: Any, prefix: str = "") -> set[str]:
    """The dotted names of the settings of some kinds, lists of them and optional ones among them."""
    found: set[str] = set()
    hints = typing.get_type_hints(schema)
    for item in fields(schema):
        hint = hints[item.name]
        if is_dataclass(hint):
            found |= _settings(hint, *kinds, prefix=f"{prefix}{item.name}.")
        elif {*kinds} & {*_parts(hint)}:
            found.add(f"{prefix}{item.name}")
    return found


def _parts(hint: Any) -> Iterator[Any]:
    """What a type is made of: list[str] | None of list, str and None."""
    yield typing.get_origin(hint) or hint
    for part in typing.get_args(hint):
        yield from _parts(part)
