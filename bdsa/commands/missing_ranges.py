"""Ranges for int8 that a checkpoint lacks, measured on the data that the command was given."""
from __future__ import annotations

from bdsa.config.commands import EvaluateConfig
from bdsa.data.datasets import Splits
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.ranges import quantize

IMAGES = 256


def measure_ranges(network: AdaptiveNetwork, splits: Splits, config: EvaluateConfig, workers: int) -> None:
    """Measure them on the first training images; every process does it with the same.

    Raises:
        UserError: if the data have none, or the network no layer with an int8 form.
    """
    try:
        images = limited(splits.train_eval, min(len(splits.train_eval), IMAGES))
    except UserError as error:
        raise UserError(f"precision=int8 needs ranges, which this network lacks and training images give: "
                        f"{error}") from error
    print(f"note: the network has no ranges for int8; they are measured on {len(images):,} training images, as "
          f"bdsa.quantize does, whose network bdsa.save writes with them")
    quantize(network, eval_loader(images, config.trainer.eval_batch_size, workers))
