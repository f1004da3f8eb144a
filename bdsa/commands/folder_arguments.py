"""Command lines of folders and settings: bare words are folders, NAME=VALUE are settings."""
from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from bdsa.commands.one_line import one_line
from bdsa.config.overrides import check_overrides
from bdsa.config.schema import described_settings, from_omegaconf
from bdsa.errors import UserError
from bdsa.runs.output import LastingOutput


def launch_for_folders(work: Callable[[list[str], Any], None], schema: type, help_text: str, example: str) -> None:
    """Run `work(folders, settings)` for the command line, or print the help; an error is one line.

    Args:
        help_text: what stands above the settings.
        schema, example: see `folders_and_settings`.
    """
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(help_text + "\n".join(described_settings(schema, asdict(schema()))))
        return
    with one_line(), contextlib.redirect_stdout(LastingOutput(sys.stdout)):  # names of folders may be no UTF-8
        work(*folders_and_settings(arguments, schema, example))


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
