"""MAC accounting: convolutions and matrix products only, counted where they are executed.

One multiply-accumulate is one MAC. For a block with mask m (docs/method.md, section 5):

    cost = |D(m)| * macs_per_position(layers at D(m)) + |m| * macs_per_position(layers at m)
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
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


def count_dense_macs(network: nn.Module, size: tuple[int, int], channels: int = 3,
                     around: Callable[[Any], AbstractContextManager[Any]] = nullcontext) -> int:
    """MACs of `network(x)` for one image, counted by torch's own flop counter without computing.

    Args:
        network: any module; it is only looked at, so that other threads may use it meanwhile.
        size: (height, width) of the input in pixels.
        channels: channels of the input.
        around: what the count is made within, of the module's likeness that is counted.
    """
    likeness = on_meta(network).eval()
    x = torch.empty(1, channels, *size, device="meta", dtype=next(network.parameters()).dtype)
    with torch.no_grad(), around(likeness), FlopCounterMode(display=False) as counter:
        likeness(x)
    return counter.get_total_flops() // 2  # a MAC is two floating-point operations


def on_meta(module: nn.Module, made: dict[int, nn.Module] | None = None) -> nn.Module:
    """A likeness of a module with its shapes and modes, and without its memory, its hooks, or a way back to it.

    Args:
        made: likenesses by the id of what they are of: a module that is in two places stays one.
    """
    made = {} if made is None else made
    if id(module) in made:
        return made[id(module)]
    likeness = made[id(module)] = object.__new__(type(module))
    state: dict[str, Any] = {name: _alike(value, module, made) for name, value in vars(module).items()
                             if name != "_compiled_call_impl"}  # which calls the module itself
    for kind in ("_parameters", "_buffers"):
        state[kind] = {name: value if value is None else value.detach().to("meta")
                       for name, value in state[kind].items()}
    state["_modules"] = {name: child if child is None else on_meta(child, made)
                         for name, child in state["_modules"].items()}
    state |= {"_forward_hooks": OrderedDict(), "_forward_pre_hooks": OrderedDict()}
    vars(likeness).update(state)
    return likeness


def _alike(value: Any, module: nn.Module, made: dict[int, nn.Module]) -> Any:
    """An attribute of a module's likeness: no memory, and no way back to the module."""
    if isinstance(value, Tensor):
        return value.detach().to("meta")
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, made[id(module)])
    if type(value) in (list, tuple):
        return type(value)(on_meta(each, made) if isinstance(each, nn.Module) else each for each in value)
    return on_meta(value, made) if isinstance(value, nn.Module) else value
