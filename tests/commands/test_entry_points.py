"""`bdsa`: the list of the commands, and the way to each."""
from __future__ import annotations

import importlib
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from command_line import run

import bdsa
from bdsa.commands.entry_points import COMMANDS, main

ROOT = Path(__file__).parents[2]


def test_bdsa_alone_lists_every_command() -> None:
    outcome = run(main, [])
    assert outcome.code == 0 and outcome.out == run(main, ["--help"]).out
    for name, (does, _) in COMMANDS.items():
        (line,) = [line for line in outcome.out.splitlines() if line.startswith(f"  bdsa {name} ")]
        assert line.endswith(does)


def test_the_list_is_of_the_installed_commands() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = dict(line.split(" = ") for line in setup["options.entry_points"]["console_scripts"].strip().splitlines())
    assert scripts == {"bdsa": f"{main.__module__}:main", **{f"bdsa-{n}": where for n, (_, where) in COMMANDS.items()}}


def test_it_says_its_version() -> None:
    assert run(main, ["--version"]).out == f"bdsa {bdsa.__version__}\n"


def test_a_misspelled_command_is_one_line_with_the_nearest() -> None:
    outcome = run(main, ["trian", "recipe.lr=1"])
    assert outcome.code == 1 and outcome.out == ""
    assert outcome.err.startswith("error: unknown command 'trian' (did you mean 'train'?)") and "\n" not in outcome.err


def test_a_word_is_the_command_of_its_name() -> None:
    for name, (_, where) in COMMANDS.items():
        module, _, function = where.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name
    assert run(main, ["compare", "--help"]).out.startswith("bdsa-compare: ")
    outcome = run(main, ["evaluate", "checkpoint=missing.pt"])
    assert outcome.code == 1 and outcome.err.startswith("error: ") and "missing.pt" in outcome.err


def test_the_list_waits_for_no_torch() -> None:
    code = ("import sys\nfrom bdsa.commands.entry_points import main\nmain()\n"
            "print([name for name in ('torch', 'timm', 'wandb', 'matplotlib') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr
