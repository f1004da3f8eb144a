"""Calibrate a network on what a loader gives, for training loops other than bdsa-train's."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from bdsa.data.batches import first_images
from bdsa.errors import UserError
from bdsa.models.measuring import network_in
from bdsa.models.modes import evaluating
from bdsa.models.network import AdaptiveNetwork
from bdsa.training.calibration import calibrate_dense_statistics, calibrate_thresholds
from bdsa.training.curves import calibrate_curves

INSTEAD = "give call=..., a function that runs the model on it"


def calibrate(model: nn.Module, loader: Iterable[Any], *, images: int = 512, tolerance: float = 0.003,
              augmented: Iterable[Any] | None = None, call: Callable[[Any], object] | None = None
              ) -> dict[str, tuple[float, float]]:
    """After a training: move thresholds so that the network meets each of its budgets, on training images.

    Training meets a budget with noise and batch statistics, inference has neither, so that the realised fraction
    drifts. Only the biases of mask units change (and, with `augmented`, statistics of the dense path). Without `call`
    the curves for the budgets between are measured too. A cascade's confidence is dropped: `calibrate_confidence`, on
    images that were not trained on, measures it anew.

    Args:
        model: an adaptive network, or a module that holds one.
        loader: batches of training images as inference sees them: [B, 3, H, W] tensors, tuples that begin with one,
            or dictionaries with one under "image", "images" or "pixel_values". Read until `images` have come.
        images: how many.
        tolerance: how near to the budget is near enough.
        augmented: batches of training images as the training saw them, where budget 1 was not trained: the statistics
            of its batch norms are measured on these.
        call: what runs the model once on a batch, for batches or models of another kind:
            `lambda batch: detector(batch[0])`. It must not name a budget.

    Returns:
        A budget's name -> (fraction before, fraction after).

    Raises:
        UserError: for a model without an adaptive network, or a batch without images.
    """
    network = network_in(model)
    if augmented is not None and not network.budgets.has_dense:
        calibrate_dense_statistics(network, _taken(network, augmented, images))
    if call is None:
        taken = _taken(network, loader, images)
        report = calibrate_thresholds(network, taken, tolerance=tolerance)
        if network.budgets.adaptive:
            calibrate_curves(network, taken)
        return report
    with evaluating(model):
        return calibrate_thresholds(network, _some(loader, images), tolerance=tolerance, call=call)


def _taken(network: AdaptiveNetwork, loader: Iterable[Any], images: int) -> list[Tensor]:
    """The first batches' images [B, C, H, W] on the network's device, `images` of them at most."""
    device = next(network.parameters()).device
    return [batch.to(device) for batch in first_images(loader, images, network._channels(), "calibrate on", INSTEAD)]


def _some(loader: Iterable[Any], images: int) -> list[Any]:
    """The first batches, until they hold so many images; one that has no length counts as one."""
    taken, count = [], 0
    for batch in loader:
        taken.append(batch)
        first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        count += len(first) if hasattr(first, "__len__") else 1
        if count >= images:
            break
    if not taken:
        raise UserError("there is nothing to calibrate on: the loader gives no batch")
    return taken
