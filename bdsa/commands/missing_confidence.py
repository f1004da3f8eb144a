"""How sure first answers are, for a checkpoint that does not say it, measured on the data of the command."""
from __future__ import annotations

from bdsa.config.commands import EvaluateConfig
from bdsa.data.datasets import Splits
from bdsa.models.network import AdaptiveNetwork
from bdsa.training.cascade import calibrate_confidence, unseen_batches


def lacks_confidence(network: AdaptiveNetwork) -> bool:
    """Whether a network is to run as a cascade that does not know how sure its answers are."""
    return network.cascade and network.confidence is None


def measure_confidence(network: AdaptiveNetwork, splits: Splits, config: EvaluateConfig, workers: int | None) -> None:
    """Measure it on images that were not trained on; every process does it with the same.

    Raises:
        UserError: for a network that can be no cascade.
    """
    found = calibrate_confidence(network, unseen_batches(splits, config.trainer.eval_batch_size, workers))
    print(f"note: the checkpoint does not say how sure its answers are; it is measured on {found.images:,} images of "
          f"{splits.validated_on}, without their labels, and written to results.json, from where bdsa-export "
          f"curves=PATH puts it into a file")
