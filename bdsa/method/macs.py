"""MAC accounting: convolutions and matrix products only, counted where they are executed.

One multiply-accumulate is one MAC. For a block with mask m (docs/method.md, section 5):

    cost = |D(m)| * macs_per_position(layers at D(m)) + |m| * macs_per_position(layers at m)
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

WITHOUT_FLOAT64 = ("mps",)  # kinds of devices: Apple's GPUs


def macs_per_position(*layers: nn.Module, groups_twice: bool = False) -> int:
    """MACs that the layers spend on one output position of one image.

    Args:
        layers: convolutions (groups respected: a depthwise 7x7 costs 49 C) and linear layers.
        groups_twice: divide a grouped convolution by its groups once more, as the authors' code does
            (a depthwise 7x7 then costs 49).
    """
    total = 0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            macs = layer.out_channels * (layer.in_channels // layer.groups) * height * width
            total += macs // layer.groups if groups_twice else macs
        elif isinstance(layer, nn.Linear):
            total += layer.in_features * layer.out_features
        else:
            raise TypeError(f"{type(layer).__name__} has no MACs per position")
    return total


def active(mask: Tensor) -> Tensor:
    """Active positions per image. mask: [B, 1, H, W] of zeros and ones -> [B] float64, with gradient.

    float64 counts every MAC of any network exactly; float32 would round from 16.8 M on.
    """
    return mask.sum(dim=(1, 2, 3), dtype=count_type(mask.device))


def count_type(device: torch.device) -> torch.dtype:
    """The type that MACs are counted in: float64, or float32 on a device that has no other."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def count_dense_macs(network: nn.Module, size: tuple[int, int], channels: int = 3) -> int:
    """MACs of `network(x)` for one image, counted by torch's own flop counter without computing.

    Args:
        network: any module; its tensors are only looked at, never copied or changed.
        size: (height, width) of the input in pixels.
        channels: channels of the input.
    """
    meta = {k: v.to("meta") for k, v in (*network.named_parameters(), *network.named_buffers())}
    x = torch.empty(1, channels, *size, device="meta", dtype=next(network.parameters()).dtype)
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(network, meta, (x,))
    finally:
        network.train(training)
    return counter.get_total_flops() // 2  # a MAC is two floating-point operations
