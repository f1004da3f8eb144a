"""The code keeps to its lint rules, and the public names carry the types that a user's own checks rely on."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bdsa

ROOT = Path(__file__).parents[2]


def python(*arguments: object) -> str:
    """What `python -m ARGUMENTS` says in the repository, where it fails; else an empty string."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def test_ruff_finds_nothing() -> None:
    assert python("ruff", "check", "--output-format", "concise", ".") == ""


@pytest.mark.slow
def test_mypy_finds_nothing_in_the_public_modules() -> None:
    assert python("mypy") == ""


@pytest.mark.slow
def test_a_users_code_is_checked_against_the_lazy_names(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text("import bdsa\n" + "".join(f"reveal_type(bdsa.{name})\n" for name in bdsa.__all__)
                    + 'network = bdsa.create_model("resnet18", budgets=["a half"])\n')
    said = python("mypy", code)
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    assert len(revealed) == len(bdsa.__all__) and "Any" not in revealed
    assert re.findall(r"own.py:(\d+): error", said) == [str(2 + len(bdsa.__all__))], said
    assert (Path(bdsa.__file__).parent / "py.typed").exists()
