"""The CIFAR ResNets among timm's names, `timm.create_model("cifar_resnet20")`, without waiting for timm.

Where timm is there, its names are added at once; else as soon as somebody imports it.
"""
from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = "bdsa.models.cifar_resnet"


def add_when_imported() -> None:
    """Register the names with timm now, or when it has been imported."""
    if "timm" in sys.modules and hasattr(sys.modules["timm"], "create_model"):
        importlib.import_module(NAMES)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting:
    """A finder of modules that finds none itself: it lets timm's own loader register our names afterwards."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
                  ) -> ModuleSpec | None:
        if name != "timm":
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((each for each in found if each is not None), None)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_add(module: Any) -> None:
            load(module)
            if self in sys.meta_path:  # it stays until then: many only look whether timm could be imported
                sys.meta_path.remove(self)
            importlib.import_module(NAMES)

        spec.loader.exec_module = load_and_add  # type: ignore[method-assign]
        return spec
