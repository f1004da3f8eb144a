"""The ranges of what layers read, for int8: measured on training images, kept with the network.

A layer's rows are bytes of one step, from a lowest to a highest value; what lies beyond becomes the nearest of these.
Of the ranges between 40 and 100 % of the whole one, that with the least mean squared error is taken, on a sample of the
values (Nagel et al. 2021, "A White Paper on Neural Network Quantization").
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdsa.budgets import DENSE
from bdsa.data.batches import first_images
from bdsa.errors import UserError
from bdsa.models.measuring import network_in
from bdsa.models.modes import evaluating, one_look
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import forget
from bdsa.sparse.plans import KINDS, ConvNeXtPlan
from bdsa.sparse.quantised import Bytes, layers_of

SAMPLE = 2048  # values of a layer that a batch gives
SHARES = tuple(0.4 + 0.05 * i for i in range(13))  # of the whole range


class _Seen:
    """The values that a layer reads: some of them, drawn the same way each time, and the range of all."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.sample: list[Tensor] = []
        self.low, self.high = 0.0, 0.0

    def add(self, x: Tensor) -> None:
        flat = x.detach().flatten().float().cpu()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.sample.append(flat[torch.randint(len(flat), (SAMPLE,), generator=self.generator)])

    def best(self) -> tuple[float, float]:
        """The range of the least error."""
        values = torch.cat(self.sample)

        def error(share: float) -> float:
            kind = Bytes.of(share * self.low, share * self.high)
            found = ((values * kind.inverse + kind.zero).round().clamp(0, 255) - kind.zero) / kind.inverse
            return float((found - values).square().mean())

        share = min(sorted(SHARES, reverse=True), key=error)
        return share * self.low, share * self.high


def quantize(model: nn.Module, loader: Iterable[Any], *, images: int = 512) -> dict[str, tuple[float, float]]:
    """Measure what int8 needs of a trained network, so that it may be set: `network.precision = "int8"`.

        bdsa.quantize(network, train_loader)
        network.execution, network.precision = "sparse", "int8"

    The network's weights stay as they are. What is measured belongs to them: of weights that were trained further it is
    to be measured anew. `bdsa.save` and checkpoints carry it.

    Args:
        model: an adaptive network, or a module that holds one.
        loader: batches of training images as inference sees them: [B, C, H, W] tensors, tuples that begin with one,
            or dictionaries with one under "image", "images" or "pixel_values"; or one tensor. Read until `images`
            have come.
        images: how many; some hundred are enough.

    Returns:
        By the layer's name the lowest and highest value of what it reads at the network's budgets, also as
        `network.ranges`.

    Raises:
        UserError: where there are no images of the network's channels, or no layer has an int8 form.
    """
    network = network_in(model)
    seen, handles = _listen(network)
    if not seen:
        raise UserError("no layer of this network has an int8 form: blocks of ResNets without groups have one, and of "
                        "ConvNeXt v1")
    device = next(network.parameters()).device
    before = network.execution, network.precision
    taken = first_images(loader, images, network._channels(), "measure ranges on")
    try:
        network.execution, network.precision = "masked", "float32"
        with evaluating(model), one_look(network):
            for x in taken:
                for budget in (*network.budgets.adaptive, DENSE):
                    with torch.inference_mode(), network.at_budget(budget):
                        model(x.to(device))
    finally:
        for handle in handles:
            handle.remove()
        network.execution, network._precision = before
    network.ranges = {name: each.best() for name, each in seen.items() if each.sample}  # a backbone may end early
    forget(network)
    return network.ranges


def quantizes(network: AdaptiveNetwork) -> bool:
    """Whether there is a layer with an int8 form."""
    return any(layers_of(block) for block in network.adaptive_blocks())


def _listen(network: AdaptiveNetwork) -> tuple[dict[str, _Seen], list[Any]]:
    """By the name of each layer with an int8 form what it will read, and the hooks that look at it."""
    names = {module: name for name, module in network.named_modules()}
    seen: dict[str, _Seen] = {}
    handles: list[Any] = []
    for block in network.adaptive_blocks():
        layers = layers_of(block) or ()
        for layer in layers:
            own = seen[names[layer]] = _Seen()
            if KINDS[type(block)] is ConvNeXtPlan and layer is layers[0]:
                # its norm's weight and bias are folded into the layer: it reads what they are applied to
                handles.append(block.conv_dw.register_forward_hook(partial(_normalised, own.add, block.norm.eps)))
            else:
                handles.append(layer.register_forward_pre_hook(lambda _, x, add=own.add: add(x[0])))
    return seen, handles


def _normalised(add: Callable[[Tensor], None], eps: float, layer: nn.Module, x: Any, y: Tensor) -> None:
    add(F.layer_norm(y.permute(0, 2, 3, 1), (y.shape[1],), eps=eps))

