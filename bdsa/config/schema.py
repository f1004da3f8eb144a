"""The one seam between Hydra and the code, and what a schema says of itself: names, help, nearest spelling."""
from __future__ import annotations

import typing
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from bdsa.config.plugins import load_plugins
from bdsa.config.setting import check_settings
from bdsa.errors import UserError, first_line, nearest


def from_omegaconf(schema: type, composed: DictConfig) -> Any:
    """The one seam between Hydra and the code: a composed config becomes a checked plain dataclass.

    Raises:
        UserError: for an unknown name (nearest one offered), a value of another type, or a rule of
            the dataclass that is broken.
    """
    try:
        load_plugins(composed.get("plugins") or [])  # those of a preset, or of a job that another process composed
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), composed))
    except ConfigKeyError as error:
        raise unknown_setting(error.full_key, schema) from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {first_line(error)}") from error
    check_settings(config)
    if hasattr(config, "check"):  # what no single value decides
        config.check()
    return config


def setting_names(schema: type, prefix: str = "") -> list[str]:
    """All dotted names of a schema: "model.name", "recipe.lr", ..."""
    names = []
    for part in fields(schema):
        hint = typing.get_type_hints(schema)[part.name]
        names += setting_names(hint, f"{prefix}{part.name}.") if is_dataclass(hint) else [f"{prefix}{part.name}"]
    return names


def described_settings(schema: type, values: dict[str, Any], prefix: str = "") -> list[str]:
    """A line a setting for --help: name, value, meaning and choices."""
    lines = []
    hints = typing.get_type_hints(schema)
    for item in fields(schema):
        value = values.get(item.name)
        if is_dataclass(hints[item.name]):
            lines += described_settings(hints[item.name], value or {}, f"{prefix}{item.name}.")
            continue
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        choices = item.metadata["rule"].known
        meaning = item.metadata["meaning"] + (f" ({' | '.join(choices)})" if choices else "")
        lines.append(f"  {f'{prefix}{item.name}={shown}':<44} {meaning}")
    return lines


def unknown_setting(name: str, schema: type) -> UserError:
    """The error for a setting that the schema does not have: the nearest of all, and its neighbours."""
    known = setting_names(schema)
    section = name.rpartition(".")[0]
    beside = [k for k in known if section and k.rpartition(".")[0] == section]
    shown = beside or sorted({k.split(".")[0] for k in known})
    hint = nearest(name, known) or nearest(name, shown)
    return UserError(f"unknown setting '{name}'{hint}; {'its section has' if beside else 'there are'} "
                     f"{', '.join(shown)}")
