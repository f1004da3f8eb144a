"""Every combination of every ready sweep is a training that can start; the W&B files are the same sweeps."""
from __future__ import annotations

import itertools
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from bdsa.commands.launch import prepare_hydra
from bdsa.commands.sweep.rows import combinations, in_rows
from bdsa.config.options import group_options, shipped_folder, sweeps
from bdsa.config.overrides import check_overrides
from bdsa.config.schema import from_omegaconf
from bdsa.config.settings import TrainConfig
from bdsa.runs.name import run_name

FOLDER = Path(__file__).parents[2] / "sweeps"
WANDB = {p.stem: p for p in sorted((FOLDER / "wandb").glob("*.yaml"))}
GRIDS = [name for name in sweeps() if name != "search"]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    prepare_hydra(TrainConfig, survivors=True)
    with initialize_config_dir(str(shipped_folder("conf")), version_base="1.3"):
        yield


@cache
def with_groups(*words: str) -> DictConfig:
    """A composed config; Hydra takes a tenth of a second for it."""
    return compose("train", list(words))


def checked(words: list[str]) -> str:
    """Compose and check a command line as `bdsa-train` does; returns the name of its folder."""
    options = group_options("train")
    check_overrides(words, TrainConfig, options)
    parsed = OverridesParser.create().parse_overrides(words)
    config = with_groups(*(o.input_line for o in parsed if o.key_or_group in options)).copy()
    for o in parsed:
        if o.key_or_group not in options:
            OmegaConf.update(config, o.key_or_group, o.value())
    assert from_omegaconf(TrainConfig, config).tracker.project == "bdsa"
    return run_name(_root_=config)


@cache
def params(name: str) -> dict[str, str]:
    return OmegaConf.to_container(OmegaConf.load(sweeps()[name]).hydra.sweeper.params)


@cache
def rows_of(name: str) -> dict[str, str]:
    return OmegaConf.to_container(OmegaConf.load(sweeps()[name]).hydra.sweeper).get("rows", {})


@cache
def names_of(sweep: str) -> list[str]:
    needs_data = ["data.root=X"] if "data.root" in sweeps()[sweep].read_text() else []
    arguments = [f"sweep={sweep}", *needs_data]
    rows = rows_of(sweep)
    jobs = in_rows(params(sweep), rows, arguments) if rows else combinations(params(sweep), arguments)
    return [checked(words) for words in jobs]


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_every_combination_is_a_training_with_a_folder_of_its_own(name):
    folders = names_of(name)
    assert len({*folders}) == len(folders) > 1
    assert f"| {name} | `bdsa-train sweep={name}" in README and f" | {len(folders)} | " in line_of(name)


@pytest.mark.slow
def test_the_search_is_within_what_a_training_takes():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install 'bdsa[optuna]'")
    for words in itertools.product(*([f"{name}={value}" for value in re.findall(r"\d[\d.e-]*", values)]
                                     for name, values in params("search").items())):
        checked(["sweep=search", *words])
    trials = OmegaConf.load(sweeps()["search"]).hydra.sweeper.n_trials
    assert f" | {trials} | " in line_of("search")


@pytest.mark.slow
@pytest.mark.parametrize("name", WANDB)
def test_a_wandb_file_is_the_sweep_of_its_name(name):
    file = OmegaConf.to_container(OmegaConf.load(WANDB[name]))
    assert file["program"] == "bdsa-train" and file["command"][-1] == "${args_no_hyphens}"
    assert f"sweeps/wandb/{name}.yaml" in WANDB[name].read_text()
    values = [[(key, v) for v in given.get("values", [given[k] for k in ("value", "min", "max") if k in given])]
              for key, given in file["parameters"].items()]
    assert all(v is not None for pairs in values for _, v in pairs)  # an agent writes None, which is no null
    commands = [[f"{key}={value}" for key, value in pairs] for pairs in itertools.product(*values)]
    folders = [checked([w if not w.startswith("data.root=") else "data.root=X" for w in words]) for words in commands]
    if file["method"] == "grid":
        assert sorted(folders) == sorted(names_of(name))
    if file["method"] != "grid":
        assert {*file["parameters"]} == {*params(name)}


def test_the_lists_are_complete():
    assert [*WANDB] == [name for name in sweeps() if not rows_of(name)]  # W&B knows grids
    assert re.findall(r"^\| (\w+) \| `bdsa-train", README, re.MULTILINE) and all(line_of(name) for name in sweeps())
    for name, path in sweeps().items():
        assert f"#   bdsa-train sweep={name}" in path.read_text()


README = (FOLDER / "README.md").read_text()


def line_of(name: str) -> str:
    return next((line for line in README.splitlines() if line.startswith(f"| {name} |")), "")


@pytest.mark.parametrize("name", GRIDS)
def test_the_command_line_that_a_job_records_is_that_job_alone(name: str) -> None:
    def planned(arguments: list[str]) -> list[list[str]]:
        return in_rows(params(name), rows, arguments) if (rows := rows_of(name)) else combinations(
            params(name), arguments)

    jobs = planned([f"sweep={name}", "data.root=/a b", "recipe.epochs=3"])
    for job in (jobs[0], jobs[-1]):
        assert [sorted(again) for again in planned(shlex.split(shlex.join(job)))] == [sorted(job)]
