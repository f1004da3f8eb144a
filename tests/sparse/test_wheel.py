"""A wheel with compiled kernels runs sparsely where there is no compiler, and one without them is as it was."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bdsa.sparse import build, compiling, packed

ROOT = Path(__file__).parents[2]
PARTS = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "bdsa", "conf", "experiments", "sweeps",
         "hydra_plugins")
WITHOUT_A_COMPILER = """
import json, torch, bdsa
from bdsa.sparse import build
network = bdsa.create_model("cifar_resnet8", [0.4], num_classes=10).eval()
images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    masked = network(images, budget=0.4)
    network.execution = "sparse"
    sparse = network(images, budget=0.4)
    operator = bdsa.portable(network)(images, torch.tensor(0.4))
print(json.dumps({"kernels": build.library()._name, "apart": float((sparse - masked).abs().max()),
                  "operator": torch.equal(operator, sparse)}))
"""


def wheel(folder: Path, **environment: str) -> Path:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for part in PARTS:
        if not (source / part).exists():
            (source / part).symlink_to(ROOT / part)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w",
                           folder / "out", source], capture_output=True, text=True,
                          env={**os.environ, "BDSA_BUILD": "0", **environment})
    assert done.returncode == 0, done.stderr
    return max((folder / "out").iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.slow
def test_a_wheel_brings_kernels_for_machines_without_a_compiler(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    try:
        compiler = compiling.compiler()
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    quick = tmp_path / "quick"  # what is compiled is the same, and not how fast it is
    quick.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    quick.chmod(0o755)
    made = wheel(tmp_path, BDSA_BUILD="plain", CXX=str(quick))
    assert made.name.split("-")[2:4] == ["py3", "none"] and "any" not in made.name
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target",
                    tmp_path / "installed", made], check=True)
    alone = {"PATH": str(tmp_path / "nothing"), "PYTHONPATH": str(tmp_path / "installed"), "HOME": str(tmp_path),
             "BDSA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_COMPILER], capture_output=True, text=True, cwd=tmp_path,
                          env=alone)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "/installed/bdsa/sparse/packed/plain-" in found["kernels"] and found["operator"]
    assert found["apart"] < 1e-4 and not (tmp_path / "cache").exists()
    pure = wheel(tmp_path)  # in the same folder, where the last build lies
    assert pure.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(pure).namelist() if "packed/" in name]


def test_the_best_level_that_fits_is_taken_before_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here: set[str] = set()

    def named(level: str, name: str, torch: str | None = None) -> Path | None:
        return tmp_path / level if level in here else None

    monkeypatch.setattr(build, "chosen", lambda: ("native", ()))
    monkeypatch.setattr(packed, "levels", lambda: packed.LEVELS)
    monkeypatch.setattr(packed, "find", named)
    monkeypatch.setattr(build, "build", lambda *choice: tmp_path / "built")
    monkeypatch.setattr(build.ctypes, "CDLL", lambda path: Path(path).name)
    for flags, brought, expected in (("avx2 avx512f", ("avx512", "avx2"), "avx512"), ("avx2", ("avx2",), "avx2"),
                                     ("avx2 avx512f", ("avx2", "plain"), "built"), ("sse2", ("plain",), "built")):
        monkeypatch.setattr(build, "processor_flags", lambda flags=flags: flags)
        here.clear()
        here.update(brought)
        assert build.library.__wrapped__() == expected

    def none(*choice: object) -> Path:
        raise build.Unavailable("no compiler")

    monkeypatch.setattr(build, "build", none)
    assert build.library.__wrapped__() == "plain"
