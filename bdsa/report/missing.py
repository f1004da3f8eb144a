"""What is not there: runs that stopped or failed, holes in a grid of budgets and seeds, and the commands for them."""
from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from bdsa.config.options import shipped_folder
from bdsa.config.settings import TrainConfig
from bdsa.report.networks import DataTable, Network, expected_budgets, setting
from bdsa.runs.name import decisive_settings, default_settings
from bdsa.runs.places import PLACES, for_seed
from bdsa.runs.reading import Run


@dataclass(frozen=True)
class Missing:
    """A run that is not there.

    Attributes:
        what: which one, such as "cifar_resnet20 at 0.5, seed 1".
        why: what is known about it.
        command: makes it, or goes on with it.
        run: its folder, where there is one.
    """
    what: str
    why: str
    command: str
    run: Run | None = None


def missing_runs(tables: list[DataTable], homeless: list[Run], budgets: list[float]) -> list[Missing]:
    """Every run that is missing, unfinished ones first.

    Expected are, of every row of single-budget networks, its `expected_budgets`, and of every cell the seeds that at
    least half of the table's cells of its kind have, and no fewer than two. Of a row without a finished run nothing
    more is expected.
    """
    unfinished = list({id(r): r for t in tables for n in t.networks for r in n.runs if r.results is None}.values())
    found = [_unfinished(run) for run in [*unfinished, *homeless]]
    for table in tables:
        begun = [n for n in table.networks if any(c.runs for c in n.cells.values())]
        seeds = {single: _usual_seeds([n for n in begun if n.single is single]) for single in (True, False)}
        for network in begun:
            asked = expected_budgets(network, table.networks, budgets) if network.single else network.trained[:1]
            for budget in asked:
                cell = network.cells.get(budget)
                here = {r.seed for r in (*cell.runs, *cell.unfinished)} if cell else set()
                like = network.runs[0].seed
                for seed in sorted((seeds[network.single] - here) or ({like} if cell is None else set())):
                    found.append(_hole(network, budget, seed))
    return found


def _usual_seeds(networks: list[Network]) -> set[int]:
    cells = [cell for n in networks for b, cell in n.cells.items() if b in n.trained]
    counts = Counter(run.seed for cell in cells for run in (*cell.runs, *cell.unfinished))
    return {seed for seed, count in counts.items() if count >= max(2, len(cells) / 2)}


def _unfinished(run: Run) -> Missing:
    budgets = ", ".join(f"{b:g}" for b in run.trained)
    epochs = run.settings["recipe.epochs"]
    why = f"stopped after {run.epochs_done} of {epochs} epochs" if run.epochs_done < epochs else "not measured yet"
    if run.failure is not None:
        why = f"failed: {run.failure}"
    return Missing(f"{run.name} ({run.settings['model.name']} for {budgets})", why,
                   run.command or command_of({**run.settings, "name": run.config.get("name")}, run.config.get("out")),
                   run)


def _hole(network: Network, budget: float, seed: int) -> Missing:
    settings = {**network.settings, "trainer.seed": seed,
                **{place: for_seed({run.seed: run.settings[place] for run in network.runs}, seed) for place in PLACES}}
    if network.single:
        settings["budgets.targets"] = [budget]
    label = f" ({network.label})" if network.label else ""
    at = f"at {budget:g}" if network.single else f"for {', '.join(f'{b:g}' for b in network.trained)}"
    return Missing(f"{network.model} {at}, seed {seed}{label}", "no such run",
                   command_of(settings, network.runs[0].config.get("out")))


def command_of(settings: dict[str, Any], out: str | None = None) -> str:
    """A bdsa-train command line with these settings, presets and groups spelled out; `out` is where its folder goes."""
    common = _composed_defaults()
    changed = {k: v for k, v in settings.items() if k not in common or not _same(v, common[k])}
    words = []
    for name, value in changed.items():
        if isinstance(value, dict):  # Hydra adds what the defaults do not have only where it is told to
            words += [f"+{setting(f'{name}.{key}', inner)}" for key, inner in value.items()]
        else:
            words.append(setting(name, value))
    if out not in (None, "runs"):
        words.append(setting("out", out))
    return shlex.join(["bdsa-train", *words])


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, default=str) == json.dumps(other, default=str) or (
        isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other)


@lru_cache(maxsize=1)
def _composed_defaults() -> dict[str, Any]:
    """The decisive settings of `bdsa-train` without arguments."""
    ConfigStore.instance().store(name="defaults", node=asdict(TrainConfig()))
    with initialize_config_dir(str(shipped_folder("conf").absolute()), version_base="1.3"):
        composed = compose("train")
    return {**default_settings(), "name": None, **decisive_settings(OmegaConf.to_container(composed))}
