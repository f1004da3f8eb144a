"""A run's name from its settings: the same command finds the same folder, another setting another one."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bdsa.config.names import LONGEST, check_folder, check_run_name
from bdsa.config.settings import TrainConfig
from bdsa.errors import UserError
from bdsa.runs import made_folders

# What changes where or how fast a run goes, but not its result: these may differ when a run resumes.
FREE_TO_CHANGE = {
    "": {"name", "out", "hydra", "tracker", "maximize", "objective", "pipeline"},  # objective: maximize, of older runs
    "trainer": {"device", "threads", "pictures", "fresh", "eval_batch_size", "latency"},
    "data": {"workers", "download"},
}
# What follows the machine too, and changes a result in its last digits: a training that was begun may go on with
# another one, which its log says. They stay in a name that is made from the settings, so that both may be compared.
OF_THE_MACHINE = ("trainer.amp", "trainer.compile")


def decisive_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that a run's result depends on, as flat dotted names."""
    flat = {}
    for section, value in config.items():
        if section in FREE_TO_CHANGE[""]:
            continue
        if section == "plugins":  # where they are does not matter
            flat[section] = [Path(path).name for path in value]
            continue
        if not isinstance(value, dict):
            flat[section] = value
            continue
        for key, inner in value.items():
            if key not in FREE_TO_CHANGE.get(section, set()):
                flat[f"{section}.{key}"] = inner
    return flat


def default_settings() -> dict[str, Any]:
    """The decisive settings of a run that sets nothing: what a run from before a setting existed had."""
    return decisive_settings(asdict(TrainConfig()))


def run_name(*, _root_: DictConfig) -> str:
    """Resolver `${run_name:}`: `name` where it is set, else data, model, budgets and a short hash.

    Raises:
        UserError: for a name, or an `out`, that is no folder; Hydra makes the folder next.
    """
    out = str(_root_.out)
    check_folder(out)
    if _root_.get("name") is not None:
        check_run_name(str(_root_.name))
        name = str(_root_.name)
    else:
        name = _made_name(_root_)
    made_folders.expect(Path(out) / name)
    return name


def _made_name(_root_: DictConfig) -> str:
    config = OmegaConf.to_container(OmegaConf.masked_copy(_root_, [k for k in _root_ if k != "hydra"]), resolve=True)
    defaults = default_settings()  # left out, so that a new setting does not rename the runs that leave it alone
    changed = {k: v for k, v in decisive_settings(config).items() if k not in defaults or v != defaults[k]}
    settings = json.dumps(changed, sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    targets = config["budgets"]["targets"]  # not checked yet: the name is needed before the check
    budgets = "-".join(str(b) for b in targets) if isinstance(targets, list) else str(targets)
    name = f"{config['data']['name']}-{config['model']['name']}-{budgets}-{digest}".replace("/", "_")
    if len(name.encode()) > LONGEST:
        raise UserError(f"the name made from the settings, {name[:40]}..., is longer than {LONGEST} bytes: give "
                        f"name=...")
    return name


def sweep_name() -> str | None:
    """What the jobs of a multirun are called together: the folder that they go into; None for a single run."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).resolve().name if hydra.mode is RunMode.MULTIRUN else None
