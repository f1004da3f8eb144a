"""The data that a command looks at: the training's, with what the command line changes, labelled as the network's."""
from __future__ import annotations

import types
import typing
from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

from bdsa.config.setting import check_settings
from bdsa.config.settings import DataConfig
from bdsa.data.datasets import Splits
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork

OF_TRAINING = ("train", "held_out")  # the splits that data.held_out decides
OF_OPTION = ("root", "workers", "download")  # of data=OPTION, where it is the training's data set: where it is, not how


def data_settings(asked: DataConfig, content: dict[str, Any] | None, named: Collection[str] = (),
                  split: str | None = None) -> DataConfig:
    """The training's data with what the command line changes; another data set replaces it whole.

    data=OPTION of the training's own data set says where the images are; how they were seen is the training's.

    A checkpoint's word alone downloads nothing. Images are held out only where the split asks for it: a folder of other
    images has none to hold out. They have the size of the training's, also where that was the images' own.

    Args:
        asked: the command line's, with defaults.
        content: the checkpoint, if it is of bdsa-train.
        named: the settings that the command line names, such as "data.held_out": these count, whatever they are. Empty:
            they are not known, and what differs from its default counts.
        split: the one that is asked for.

    Raises:
        UserError: if nobody says which data, or the checkpoint says what cannot be.
    """
    trained = trained_data(content)
    if trained is None or (asked.name and asked.name != trained.name):
        if not asked.name:
            raise UserError("which data? give data=cluttered_digits, data=folder data.root=PATH, data=cifar10 or "
                            "data=cifar100")
        return asked
    default = DataConfig(name="")
    size = trained.image_size or content.get("image_size") or (content.get("results") or {}).get("image_size")
    trained = replace(trained, download=False, image_size=size,
                      held_out=trained.held_out if split in OF_TRAINING else None)
    given = OF_OPTION if named else [f.name for f in fields(DataConfig)]
    return replace(trained, **{f.name: getattr(asked, f.name) for f in fields(DataConfig) if f"data.{f.name}" in named
                               or (f.name in given and getattr(asked, f.name) != getattr(default, f.name))})


def as_seen(data: DataConfig, content: dict[str, Any] | None, named: Collection[str]) -> DataConfig:
    """Data in the normalisation in which the dense network of a file was trained, unless the command line names one."""
    trained = trained_data(content)
    if trained is None or {"data.mean", "data.std"} & {*named}:
        return data
    return replace(data, mean=data.mean or trained.mean, std=data.std or trained.std)


def trained_data(content: dict[str, Any] | None) -> DataConfig | None:
    """What a checkpoint says of its training's data, held to the rules of a command line, or None."""
    stated = ((content or {}).get("config") or {}).get("data")
    if not stated:
        return None
    hints = typing.get_type_hints(DataConfig)
    for name, value in {"name": None, **stated}.items():
        if name not in hints:
            raise UserError(f"the checkpoint's data have the setting '{name[:40]}', which this version does not know")
        if not fits(value, hints[name]):
            raise UserError(f"the checkpoint's data.{name} is {str(value)[:40]!r}, which cannot be")
    config = DataConfig(**stated)
    check_settings(config, "the checkpoint's data.")
    return config


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a setting's type."""
    inner = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(fits(value, one) for one in inner)
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if hint is Any:
        return True
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def labelled(splits: Splits, network: AdaptiveNetwork, content: dict[str, Any] | None, source: object) -> Splits:
    """The images with the network's outputs as labels, matched by the names of classes where its file has them.

    Raises:
        UserError: if the classes are others than the network's.
    """
    if content is not None and content.get("classes") is not None:
        return splits.named_as(content["classes"], source)
    if network.num_classes != len(splits.classes):
        raise UserError(f"{source} has {network.num_classes} classes, the data {len(splits.classes)}")
    return replace(splits, notes=[*splits.notes, f"{source} does not name its classes: those of the data are taken in "
                                                 f"their order"])
