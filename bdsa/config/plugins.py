"""A user's own models, data sets, awareness metrics and options, from files outside the package.

A plug-in is a Python file, or a folder: its *.py files are imported in the order of their names (those that begin
with an underscore are left to the others), and the YAML files in its conf/GROUP/ are further options of the groups.
Code registers what it brings by `bdsa.register_model`, `bdsa.register_dataset` and `bdsa.register_awareness`.

A checkpoint says which plug-ins its run had, but they are loaded only where the command line, BDSA_PLUGINS or a call
names them: opening a file that someone sent must not run code.
"""
from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from yaml import YAMLError

from bdsa.config.loaded import LOADED, with_options
from bdsa.config.options import group_options
from bdsa.config.quoting import quoted_argument
from bdsa.config.settings import TrainConfig
from bdsa.errors import UserError, nearest, unknown
from bdsa.method.awareness import METRICS

VARIABLE = "BDSA_PLUGINS"     # for the user: what to load where the command line names nothing
INHERITED = "BDSA_PLUGGED"    # for `bdsa.config.plugged`: what this process has loaded



def load_plugins(paths: str | Path | Iterable[str | Path]) -> None:
    """Load plug-ins; one that is loaded already is passed by.

    Raises:
        UserError: for one that does not exist, holds nothing, fails to import (with the file and the line), or
            brings a name that exists.
    """
    for given in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(given).expanduser().resolve()
        if path in LOADED:
            continue
        files, options = _content(path, given)
        if same := next((p for p in LOADED if p.stem == path.stem), None):
            raise UserError(f"plug-ins {same} and {path} have the same name: rename one of them")
        _import(path, files)
        brought = _read(options)
        there = with_options(group_options("train"))
        for group, key, names in (("data", "name", _dataset_names()), ("awareness", "metric", METRICS)):
            brought.update({(group, n): {key: n} for n in names if n not in there[group] and (group, n) not in brought})
        sections = {part.name for part in fields(TrainConfig)}
        for (group, name), node in brought.items():
            package = None if group in sections else "_global_"  # presets set anything
            ConfigStore.instance().store(group=group, name=name, node=node, package=package)
        LOADED[path] = list(brought)
        os.environ[INHERITED] = os.pathsep.join(map(str, LOADED))


def from_command_line(arguments: list[str]) -> list[str]:
    """Load what the command line names with plugins=..., or else BDSA_PLUGINS; return the arguments with full paths.

    Raises:
        UserError: as `load_plugins`, and for a value that is neither a path nor a list of paths.
    """
    asked = [a for a in arguments if a.startswith("plugins=")]
    if asked:
        try:
            override = OverridesParser.create().parse_override(asked[-1])
        except HydraException as error:
            raise UserError(f"{asked[-1]} holds characters with a meaning of their own; quoted for a shell: "
                            f"{quoted_argument(asked[-1])}") from error
        value = override.value()
        paths: list[Any] = value if isinstance(value, list) else [value]
        if override.is_sweep_override() or not all(isinstance(p, str) for p in paths):
            raise UserError(f"{asked[-1]} is no list of files and folders: write plugins=[FILE,FOLDER]")
    else:
        paths = [p for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]
    load_plugins(paths)
    if not asked and not paths:
        return arguments
    full = [str(Path(p).expanduser().resolve()) for p in paths]
    return [f"plugins={json.dumps(full, ensure_ascii=False)}", *(a for a in arguments if a not in asked)]


def _content(path: Path, given: object) -> tuple[list[Path], list[Path]]:
    """The Python files and the YAML files of a plug-in."""
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"plug-in {given} does not exist{nearest(path.name, beside)}")
    if path.is_dir():
        files = sorted(p for p in path.glob("*.py") if not p.name.startswith("_"))
        found = sorted((path / "conf").glob("*/*.yaml"))
        if not files and not found:
            raise UserError(f"plug-in {given} is a folder without *.py and conf/GROUP/*.yaml: it brings nothing")
    elif path.suffix == ".py":
        files, found = [path], []
    else:
        raise UserError(f"plug-in {given} is neither a Python file nor a folder")
    for part in (path, *files):
        if not part.stem.isidentifier():
            raise UserError(f"plug-in {part}: '{part.stem}' cannot be imported: letters, digits and _ only")
    return files, found


def _import(path: Path, files: list[Path]) -> None:
    """Import a file as bdsa.config.plugged.NAME, those of a folder as NAME.FILE there; they may import one another."""
    importlib.import_module("bdsa.config.plugged")
    name = f"bdsa.config.plugged.{path.stem}"
    if path.is_dir():
        package = ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    for file in files:
        own = f"{name}.{file.stem}" if path.is_dir() else name
        if own in sys.modules:  # another of the files imported it
            continue
        spec = importlib.util.spec_from_file_location(own, file)
        assert spec is not None and spec.loader is not None  # a *.py file has both
        sys.modules[own] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # whatever it raises is its own
            del sys.modules[own]
            raise UserError(f"plug-in {_place(error, path)}: {_last_line(error)}") from error


def _place(error: BaseException, path: Path) -> str:
    """The file and line of a plug-in that an error comes from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(path)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else str(path)


def _last_line(error: BaseException) -> str:
    """What an error says, on one line; its kind too where it is not ours."""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _dataset_names() -> list[str]:
    registry = sys.modules.get("bdsa.data.registry")  # nobody registered one without importing it
    return registry.dataset_names() if registry else []


def _read(files: list[Path]) -> dict[tuple[str, str], Any]:
    """(group, option) -> settings, of the YAML files."""
    groups, read = with_options(group_options("train")), {}
    for file in files:
        group, name = file.parent.name, file.stem
        if group not in groups:
            raise unknown(f"group of {file}", group, groups)
        if name in groups[group]:
            raise UserError(f"plug-in {file}: {group}={name} exists already: choose another name")
        try:
            read[group, name] = OmegaConf.load(file)
        except (YAMLError, OSError) as error:
            raise UserError(f"plug-in {file} is not YAML: {' '.join(str(error).split())}") from error
    return read
