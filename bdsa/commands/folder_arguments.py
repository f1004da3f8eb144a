"""Command lines of folders and settings: bare words are folders, NAME=VALUE are settings."""
from __future__ import annotations

import os
from typing import Any

from omegaconf import OmegaConf

from bdsa.config.overrides import check_overrides
from bdsa.config.schema import from_omegaconf
from bdsa.errors import UserError


def folders_and_settings(arguments: list[str], schema: type, example: str) -> tuple[list[str], Any]:
    """The folders, in their order, and the checked settings.

    Args:
        schema: the dataclass of the settings.
        example: a setting, for the error.

    Raises:
        UserError: for an option with dashes, an unknown setting or a value that breaks a rule.
    """
    settings = [a for a in arguments if "=" in a and not os.path.exists(a)]  # a folder's name may hold "=" too
    for option in (a for a in arguments if a.startswith("-")):
        raise UserError(f"unknown option {option}: settings are written NAME=VALUE, such as {example}")
    given = OmegaConf.create({})
    for override in check_overrides(settings, schema, {}):
        written = str(override.input_line).partition("=")[2]  # these commands have no sweeps: a,b is one value
        OmegaConf.update(given, override.key_or_group, written if override.is_sweep_override() else override.value())
    config = from_omegaconf(schema, given)
    return [a for a in arguments if a not in settings], config
