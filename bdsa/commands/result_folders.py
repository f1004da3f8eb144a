"""Where the results of a checkpoint go by themselves: no measurement takes the place of another one's."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bdsa.budgets import Budgets
from bdsa.config.commands import EvaluateConfig, ExportConfig
from bdsa.config.names import FORMATS
from bdsa.config.visualize import VisualizeConfig

_ENDS = (".tar", ".pth", ".pt", ".ckpt", ".safetensors")  # of a checkpoint's name, in this order
_NAMED = 4  # budgets in a folder's name, at most
_SAID = {"model.name", "data.name", "data.workers", "data.download"}  # elsewhere in the name, or nothing of the result


def home_of(checkpoint: str) -> tuple[Path, str]:
    """The folder that a checkpoint's results lie below, and what it is called there.

    That is the run's, if it is one of a run's checkpoints; else runs/, where the name of its own folder tells it
    from others of the same name.
    """
    path = Path(checkpoint)
    name = path.name
    for end in _ENDS:
        name = name.removesuffix(end)
    if is_of_run(checkpoint):  # by the folders as they are named, where they are: a run's own folder may be a link
        return path.parents[1] if path.parent.name == "checkpoints" else Path(os.path.abspath(path)).parents[1], name
    return Path("runs"), "-".join(filter(None, (path.resolve().parent.name, name)))


def is_of_run(checkpoint: str) -> bool:
    """Whether a file is one of a run's checkpoints, also where it is named from within their folder."""
    return Path(os.path.abspath(checkpoint)).parent.name == "checkpoints"


def evaluation_folder(config: EvaluateConfig, data: str, split: str, named: Collection[str] = ()) -> Path:
    """Where bdsa-evaluate leaves what it measured on a split of the data: as asked, else by what it measures.

    Args:
        data: the data set's name.
        named: the settings that the command line names.
    """
    if config.out is not None:
        return Path(config.out)
    if config.checkpoint is not None:
        home, name = home_of(config.checkpoint)
    else:
        home, name = Path("runs"), config.model.name
        if config.model.weights is not None:
            name += f"-{home_of(config.model.weights)[1]}"
    if config.data.root is not None:
        data += f"_{Path(config.data.root).resolve().name}"
    return home / "evaluations" / "-".join([name, data, split, *_differences(config), *_digest(_unsaid(config, named))])


def visualization_folder(config: VisualizeConfig, source: str, named: Collection[str] = ()) -> Path:
    """Where bdsa-visualize leaves its pictures: as asked, else visualizations/ in the run's folder or below runs/.

    Args:
        source: what the images are: data set and split, or "images".
        named: the settings that the command line names.
    """
    if config.out is not None:
        return Path(config.out)
    home, name = home_of(config.checkpoint)
    unsaid = _unsaid(config, named)
    if config.images is not None:
        unsaid["images"] = [str(Path(each).resolve()) for each in config.images]
    return home / "visualizations" / "-".join([name, source, *_at(config.budgets.targets), *_digest(unsaid)])


def exported_file(config: ExportConfig) -> Path:
    """The file that bdsa-export writes: as asked, else beside the checkpoint, named by what is in it."""
    if config.out is not None:
        return Path(config.out)
    words = ["aoti"] * (config.format == "aoti")  # which ends as pt2 does
    words += [name for name in ("cascade", "per_image", "between") if getattr(config, name)]
    words += [config.precision] * (config.precision != "float32") + _at(config.budgets.targets)
    path = Path(config.checkpoint)
    return path.with_name("-".join([path.stem, *words]) + FORMATS[config.format])


def _differences(config: EvaluateConfig) -> list[str]:
    """What an evaluation has asked for beyond the defaults, a word each."""
    words = [name for name in ("cascade", "per_image", "extrapolate") if getattr(config, name)]
    words += [config.precision] * (config.precision != "float32") + [config.execution] * (config.execution != "auto")
    if config.trainer.limit_eval_images is not None:
        words.append(f"{config.trainer.limit_eval_images}_images")
    return words + _at(config.budgets.targets)


def _at(targets: Sequence[float] | None) -> list[str]:
    """The budgets that are asked for, as a word."""
    if targets is None:
        return []
    budgets = [f"{budget:g}" for budget in Budgets(targets)]
    digest = hashlib.sha1(" ".join(budgets).encode()).hexdigest()[:6]
    return ["at_" + ("_".join(budgets) if len(budgets) <= _NAMED else f"{len(budgets)}_budgets_{digest}")]


def _unsaid(config: EvaluateConfig | VisualizeConfig, named: Collection[str]) -> dict[str, Any]:
    """What decides a result and stands in no word of the name: settings of data and model, and where files lie."""
    unsaid: dict[str, Any] = {}
    for name in (n for n in named if n.startswith(("data.", "model.")) and n not in _SAID):
        section, key = name.split(".")[:2]
        unsaid[name] = getattr(getattr(config, section), key)
    if config.published is not None:
        unsaid["published"] = config.published
    files = {"data.root": config.data.root}
    if config.checkpoint is None:
        files["model.weights"] = config.model.weights
    elif not is_of_run(config.checkpoint):
        files["checkpoint"] = config.checkpoint
    return {**unsaid, **{name: str(Path(path).resolve()) for name, path in files.items() if path is not None}}


def _digest(unsaid: dict[str, Any]) -> list[str]:
    """It as a short word; none where there is nothing."""
    return [hashlib.sha1(json.dumps(unsaid, sort_keys=True).encode()).hexdigest()[:6]] if unsaid else []
