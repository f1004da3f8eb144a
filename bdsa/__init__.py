"""Budget-aware dynamic spatially adaptive inference: compute only where the image needs it.

    import bdsa
    model = bdsa.create_model("resnet18", budgets=[0.3, 0.5, 0.7], pretrained=True)
    logits, usage = model(images, budget=0.5, return_usage=True)

The names below are imported at first use, so that command lines start quickly.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bdsa.timm_names import add_when_imported

if TYPE_CHECKING:  # the lazy names below, for type checkers and editors
    from bdsa.budgets import Budgets as Budgets
    from bdsa.config.plugins import load_plugins as load_plugins
    from bdsa.data.datasets import Sources as Sources
    from bdsa.data.datasets import register_dataset as register_dataset
    from bdsa.errors import UserError as UserError
    from bdsa.method import losses as losses
    from bdsa.method.awareness import register_awareness as register_awareness
    from bdsa.models.blocks import AdaptiveBlock as AdaptiveBlock
    from bdsa.models.factory import create_model as create_model
    from bdsa.models.filling import fill_in as fill_in
    from bdsa.models.hub import push_to_hub as push_to_hub
    from bdsa.models.hub import save_for_hub as save_for_hub
    from bdsa.models.published import load_published_checkpoint as load_published_checkpoint
    from bdsa.models.registration import register_model as register_model
    from bdsa.models.surgery import adapt as adapt
    from bdsa.models.surgery import register_block as register_block
    from bdsa.models.usage import Usage as Usage
    from bdsa.models.weights_file import load as load
    from bdsa.models.weights_file import save as save
    from bdsa.sparse.deadline import plan as plan
    from bdsa.sparse.ranges import quantize as quantize
    from bdsa.sparse.torch_operator import portable as portable
    from bdsa.training.cascade import calibrate_confidence as calibrate_confidence
    from bdsa.training.curves import calibrate_curves as calibrate_curves
    from bdsa.training.loader_calibration import calibrate as calibrate
    from bdsa.training.objective import Objective as Objective

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveBlock": "bdsa.models.blocks",
    "Budgets": "bdsa.budgets",
    "Objective": "bdsa.training.objective",
    "Sources": "bdsa.data.datasets",
    "UserError": "bdsa.errors",
    "Usage": "bdsa.models.usage",
    "adapt": "bdsa.models.surgery",
    "calibrate": "bdsa.training.loader_calibration",
    "calibrate_confidence": "bdsa.training.cascade",
    "calibrate_curves": "bdsa.training.curves",
    "create_model": "bdsa.models.factory",
    "fill_in": "bdsa.models.filling",
    "load": "bdsa.models.weights_file",
    "load_plugins": "bdsa.config.plugins",
    "load_published_checkpoint": "bdsa.models.published",
    "losses": "bdsa.method.losses",
    "plan": "bdsa.sparse.deadline",
    "portable": "bdsa.sparse.torch_operator",
    "push_to_hub": "bdsa.models.hub",
    "quantize": "bdsa.sparse.ranges",
    "register_awareness": "bdsa.method.awareness",
    "register_block": "bdsa.models.surgery",
    "register_dataset": "bdsa.data.datasets",
    "register_model": "bdsa.models.registration",
    "save": "bdsa.models.weights_file",
    "save_for_hub": "bdsa.models.hub",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bdsa' has no attribute '{name}'")
    home = importlib.import_module(_HOMES[name])
    return home if _HOMES[name].endswith(f".{name}") else getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


add_when_imported()
