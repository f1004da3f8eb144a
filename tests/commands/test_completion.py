"""What a shell completes: groups, options and settings, as Hydra's completion finds them."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def ask(line: str) -> subprocess.CompletedProcess:
    """What a shell asks for: the words that go on from `line`; and whether torch was imported."""
    code = ("import sys\nfrom bdsa.commands.entry_points import train\ntry:\n    train()\n"
            "finally:\n    print('torch' in sys.modules)")
    return subprocess.run([sys.executable, "-c", code, "-sc", "query=bash"], capture_output=True, text=True,
                          env={**os.environ, "COMP_LINE": line})


def test_completion_waits_for_no_torch() -> None:
    done = ask("bdsa-train recipe=")
    assert "recipe=quickstart" in done.stdout and done.stdout.endswith("\nFalse\n"), done.stderr


def test_a_wrong_word_before_is_no_error() -> None:
    done = ask("bdsa-train recipe.lrr=1 rec")
    assert done.returncode == 0 and "recipe=" in done.stdout.split(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("typed, offered", [
    ("bdsa-train model=resnet1", {"model=resnet18", "model=resnet101", "model=resnet152"}),
    ("bdsa-train experiment=cifar10_resnet32_", {
        "experiment=cifar10_resnet32_multi", "experiment=cifar10_resnet32_single"}),
    ("bdsa-train model=resnet26d recipe.mask_", {"recipe.mask_lr_scale=", "recipe.mask_weight_decay="}),
])
def test_bash_completes(tmp_path: Path, typed: str, offered: set[str]) -> None:
    """With the script that -sc install=bash prints, in a real shell."""
    command = tmp_path / "bdsa-train"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bdsa.commands train "$@"\n')
    command.chmod(0o755)
    words = typed.split()
    script = ('eval "$(bdsa-train -sc install=bash)" && complete -p bdsa-train >&2\n'
              'hydra_bash_completion\nprintf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COMP_LINE": typed, "COMP_POINT": str(len(typed)),
        "COMP_CWORD": str(len(words) - 1)})
    assert "-F hydra_bash_completion bdsa-train" in done.stderr
    assert set(done.stdout.split()) == offered, done.stderr
