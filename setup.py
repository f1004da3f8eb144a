"""All of the package is declared in setup.cfg; this packs compiled kernels into a wheel where BDSA_BUILD asks for it.

    pip wheel --no-deps .                                       # Python alone: kernels are compiled at first use
    BDSA_BUILD=1 pip wheel --no-deps .                          # with kernels for every processor of this kind
    BDSA_BUILD=1 pip wheel --no-deps --no-build-isolation .     # and with the operator for the PyTorch that is here
    BDSA_BUILD=avx2,amx pip wheel --no-deps .                   # for these alone
"""
import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

ASKED = os.environ.get("BDSA_BUILD", "0")
PACKS = ASKED not in ("", "0")


class PackKernels(build_py):
    """Packs kernels behind the package's own files, and none of an earlier build."""

    def run(self) -> None:
        super().run()
        folder = Path(self.build_lib) / "bdsa" / "sparse" / "packed"
        shutil.rmtree(folder, ignore_errors=True)
        if PACKS:
            sys.path.insert(0, str(Path(__file__).parent))
            pack = importlib.import_module("bdsa.sparse.packed").pack
            found = importlib.util.find_spec("torch")
            version = importlib.import_module("torch").__version__ if found else ""
            pack(folder, ASKED, Path(found.origin).parent if found else None, version)


class WheelOfThisMachine(bdist_wheel):
    """A wheel with kernels is for this system and processor, and for any Python: they are plain C to the outside."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = self.root_is_pure and not PACKS

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return ("py3", "none", tag[2]) if PACKS else tag


setup(cmdclass={"build_py": PackKernels, "bdist_wheel": WheelOfThisMachine})
