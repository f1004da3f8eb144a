"""The data that a command looks at: the training's, with what the command line changes."""
from __future__ import annotations

from dataclasses import fields
from typing import Any

from bdsa.config.settings import DataConfig
from bdsa.errors import UserError


def data_settings(asked: DataConfig, content: dict[str, Any] | None) -> DataConfig:
    """The training's data with what the command line changes; another data set replaces it whole."""
    trained = (content or {}).get("config", {}).get("data")
    if trained is None or (asked.name and asked.name != trained["name"]):
        if not asked.name:
            raise UserError("which data? give data=cluttered_digits, data=folder data.root=PATH, data=cifar10 or "
                            "data=cifar100")
        return asked
    default = DataConfig(name="")
    changed = {f.name: getattr(asked, f.name) for f in fields(DataConfig)
               if getattr(asked, f.name) != getattr(default, f.name)}
    return DataConfig(**{**trained, **changed})
