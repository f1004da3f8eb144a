"""Curves for a checkpoint from before there were any, measured on the data that the command was given."""
from __future__ import annotations

import logging
from collections.abc import Iterable

from bdsa.budgets import DENSE, Budgets
from bdsa.config.commands import EvaluateConfig
from bdsa.data.datasets import Splits
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.points import check_reach
from bdsa.training.curves import calibrate_curves

log = logging.getLogger(__name__)


def lacks_curves(network: AdaptiveNetwork, asked: Iterable[float] | None) -> bool:
    """Whether a budget is asked for that the network would reach if it had curves; a cascade needs none.

    Raises:
        UserError: for a budget that it would not reach even then.
    """
    between = [budget for budget in Budgets(asked or [DENSE]) if not network.budgets.has(budget)]
    if network.curves or network.cascade or not between or not network.budgets.adaptive:
        return False
    check_reach(network.budgets, between[0], network.extrapolate)
    return True


def measure_curves(network: AdaptiveNetwork, splits: Splits, config: EvaluateConfig, workers: int) -> None:
    """Measure them on the first training images; every process does it with the same.

    Raises:
        UserError: if the data have none.
    """
    try:
        count = len(splits.train_eval)
    except UserError as error:
        raise UserError(f"budgets between those that were trained need curves, which this checkpoint lacks and "
                        f"training images give: {error}") from error
    images = limited(splits.train_eval, min(count, config.curve_images))
    print(f"note: the checkpoint has no curves for budgets between; they are measured on {len(images):,} training "
          f"images and written to results.json, from where bdsa-export curves=PATH puts them into a file")
    device = next(network.parameters()).device
    calibrate_curves(network, [x.to(device) for x, _ in eval_loader(images, config.trainer.eval_batch_size, workers)])
