"""Budget-aware dynamic spatially adaptive inference: compute only where the image needs it.

    import bdsa
    model = bdsa.create_model("resnet18", budgets=[0.3, 0.5, 0.7], pretrained=True)
    logits, usage = model(images, budget=0.5, return_usage=True)

The names below are imported at first use, so that command lines start quickly.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the lazy names below, for type checkers and editors
    from bdsa.budgets import Budgets as Budgets
    from bdsa.config.plugins import load_plugins as load_plugins
    from bdsa.data.datasets import Sources as Sources
    from bdsa.data.datasets import register_dataset as register_dataset
    from bdsa.errors import UserError as UserError
    from bdsa.method.awareness import register_awareness as register_awareness
    from bdsa.models.factory import create_model as create_model
    from bdsa.models.published import load_published_checkpoint as load_published_checkpoint
    from bdsa.models.registration import register_model as register_model
    from bdsa.models.surgery import adapt as adapt
    from bdsa.models.weights_file import load as load

__version__ = "0.1.0"

_HOMES = {
    "Budgets": "bdsa.budgets",
    "Sources": "bdsa.data.datasets",
    "UserError": "bdsa.errors",
    "adapt": "bdsa.models.surgery",
    "create_model": "bdsa.models.factory",
    "load": "bdsa.models.weights_file",
    "load_plugins": "bdsa.config.plugins",
    "load_published_checkpoint": "bdsa.models.published",
    "register_awareness": "bdsa.method.awareness",
    "register_dataset": "bdsa.data.datasets",
    "register_model": "bdsa.models.registration",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bdsa' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
