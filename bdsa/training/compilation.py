"""Training through torch.compile: a graph a budget, none broken by the masks, and one of the teacher.

The budget, the temperature and the noise are constants of a graph, so a training makes one graph a
budget and phase (the temperature falls, the noise ends). The noise of compiled graphs is another draw
than eager PyTorch's; it is seeded the same way, so that a run still replays.
"""
from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.config.image_size import ImageSize, height_width
from bdsa.errors import UserError
from bdsa.machine import compiler_names, has_compiler
from bdsa.models.network import AdaptiveNetwork


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile would fail at the first step for want of a compiler."""
    if not has_compiler():
        raise UserError("trainer.compile=true needs a C++ compiler, and none of "
                        f"{', '.join(compiler_names())} is here: install one or set trainer.compile=false")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("trainer.compile=true needs the package triton on a GPU: pip install triton")


def compiled(network: AdaptiveNetwork, image_size: ImageSize, phases: int, **options: Any) -> nn.Module:
    """A module that calls `network` compiled; the weights and their names stay the network's own.

    Args:
        network: an adaptive network.
        image_size: of the images that it will see: a square's side, or [height, width].
        phases: how many combinations of temperature and noise there will be.
        options: further arguments of torch.compile.
    """
    network.dense_macs(height_width(image_size))  # counted before: inside a graph it could not be
    # A budget, what lies between two of them, and the dense network, which is its own teacher without gradients too.
    graphs = (2 * len(network.budgets) + 2) * phases
    limits = torch._dynamo.config  # the defaults of 8 and 256 would leave later graphs uncompiled
    limits.recompile_limit = max(limits.recompile_limit, graphs)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, graphs)
    return torch.compile(network, dynamic=False, **options)


def compiled_teacher(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A dense network that is never trained, compiled: images [B, 3, H, W] -> logits [B, classes], without gradient.

    On a CPU its weights become constants of the graph, in the precision that they are used in, with the batch norms
    folded into the convolutions. That changes the logits in their last digits.
    """
    if device.type != "cpu":
        return torch.compile(network, dynamic=False)
    forward = torch.compile(network, dynamic=False, options={"freezing": True})

    def look(images: Tensor) -> Tensor:
        # The option makes it another compiler in dynamo's eyes, and what is compiled at a call goes by the global one.
        with torch._inductor.config.patch(freezing=True):
            return forward(images)

    return look
