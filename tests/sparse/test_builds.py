"""The builds of the native kernels: each gives the same, and what is missing is said."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bdsa.errors import UserError
from bdsa.sparse import build, native

ROOT = Path(__file__).parents[2]
# What each value of BDSA_KERNELS says of itself, and how it multiplies in bfloat16.
CHOICES = {"amx": ("AVX-512", "AMX"), "avx512bf16": ("AVX-512", "AVX512-BF16"), "avx512": ("AVX-512", "plain"),
           "avx2": ("AVX2", "plain"), "plain": ("plain", "plain"), "off": ("BDSA_KERNELS=off", None)}


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, str]]:
    choices = [choice for choice in CHOICES if not build.missing(choice)]
    done = subprocess.run([sys.executable, ROOT / "tests/support/kernel_builds.py", *choices], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_every_build_and_the_pure_torch_path_give_the_same(choice: str, said: dict[str, dict[str, str]]) -> None:
    """Masked execution's logits, masks and costs, in float32 and, to rounding, in bfloat16."""
    if missing := build.missing(choice):
        pytest.skip(f"this processor has no {missing}")
    found, (kernels, products) = said[choice], CHOICES[choice]
    assert "failed" not in found, found["failed"]
    assert found["kernels"].startswith(kernels) and found.get("products") == products or native.unavailable()
    if products in ("AMX", "plain"):  # of AVX512-BF16 the processor decides
        assert found.get("faster", products == "AMX") == (products == "AMX")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(**environment: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises((build.Unavailable, UserError)) as raised:
                build.library.__wrapped__()
        return str(raised.value)

    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    broken.chmod(0o755)
    cache = {"BDSA_CACHE": str(tmp_path)}
    assert "no C++ compiler (no-such-compiler)" in reason(CXX="no-such-compiler", **cache)
    assert "could not build the kernels: no such instruction" in reason(CXX=str(broken), **cache)
    assert "did you mean 'plain'" in reason(BDSA_KERNELS="plane")


def test_the_kernels_can_be_named_where_the_processor_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "processor_flags", lambda: "fpu sse2 avx2")
    monkeypatch.setenv("BDSA_KERNELS", "amx")
    with pytest.raises(UserError, match="BDSA_KERNELS=amx needs amx_bf16, which this processor does not have"):
        build.library.__wrapped__()
