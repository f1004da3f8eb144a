"""How sure first answers are, for a checkpoint that does not say it, measured on the data of the command."""
from __future__ import annotations

from collections.abc import Iterable

from bdsa.budgets import DENSE, Budgets
from bdsa.config.commands import EvaluateConfig
from bdsa.data.datasets import Splits
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.training.cascade import calibrate_confidence, unseen_batches


def lacks_confidence(network: AdaptiveNetwork, asked: Iterable[float] | None) -> bool:
    """Whether a network is to run as a cascade that does not know how sure its answers are.

    Raises:
        UserError: for a budget below its first look, before that is measured.
    """
    if not network.cascade or network.confidence is not None:
        return False
    smallest, *_ = network.budgets.values
    if low := next((budget for budget in Budgets(asked or [DENSE]) if budget < smallest), None):
        raise UserError(f"budget {low:g} is below {smallest:g}, at which this cascade looks at every image")
    return True


def measure_confidence(network: AdaptiveNetwork, splits: Splits, config: EvaluateConfig, workers: int | None) -> None:
    """Measure it on images that were not trained on; every process does it with the same.

    Raises:
        UserError: for a network that can be no cascade.
    """
    device = next(network.parameters()).device
    found = calibrate_confidence(network, (images.to(device) for images in unseen_batches(
        splits, config.trainer.eval_batch_size, workers, config.trainer.limit_eval_images)))
    print(f"note: the checkpoint does not say how sure its answers are; it is measured on {found.images:,} images of "
          f"{splits.validated_on}, without their labels, and written to results.json, from where bdsa-export "
          f"curves=PATH puts it into a file")
