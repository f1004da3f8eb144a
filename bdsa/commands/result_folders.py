"""Where the results of a checkpoint go by themselves: no measurement takes the place of another one's."""
from __future__ import annotations

import hashlib
from pathlib import Path

from bdsa.budgets import Budgets
from bdsa.config.commands import EvaluateConfig

_ENDS = (".tar", ".pth", ".pt", ".ckpt", ".safetensors")  # of a checkpoint's name, in this order
_NAMED = 4  # budgets in a folder's name, at most


def home_of(checkpoint: str) -> tuple[Path, str]:
    """The folder that a checkpoint's results lie below, and what it is called there.

    That is the run's, if it is one of a run's checkpoints; else runs/, where the name of its own folder tells it
    from others of the same name.
    """
    path = Path(checkpoint)
    name = path.name
    for end in _ENDS:
        name = name.removesuffix(end)
    if path.parent.name == "checkpoints":
        return path.parents[1], name
    return Path("runs"), "-".join(filter(None, (path.resolve().parent.name, name)))


def evaluation_folder(config: EvaluateConfig, data: str, split: str) -> Path:
    """Where bdsa-evaluate leaves what it measured on a split of the data: as asked, else by what it measures."""
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
    return home / "evaluations" / "-".join([name, data, split, *_differences(config)])


def _differences(config: EvaluateConfig) -> list[str]:
    """What an evaluation has asked for beyond the defaults, a word each."""
    words = [name for name in ("cascade", "per_image", "extrapolate") if getattr(config, name)]
    words += [config.precision] * (config.precision != "float32") + [config.execution] * (config.execution != "auto")
    if config.trainer.limit_eval_images is not None:
        words.append(f"{config.trainer.limit_eval_images}_images")
    if config.budgets.targets is not None:
        budgets = [f"{budget:g}" for budget in Budgets(config.budgets.targets)]
        digest = hashlib.sha1(" ".join(budgets).encode()).hexdigest()[:6]
        words.append("at_" + ("_".join(budgets) if len(budgets) <= _NAMED else f"{len(budgets)}_budgets_{digest}"))
    return words
