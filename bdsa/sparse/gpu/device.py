"""Where the Triton kernels can run, and with how many programs."""
from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CAPABILITY = (8, 0)   # the oldest that the kernels are compiled for: matrix units with bfloat16
TYPES = (torch.bfloat16, torch.float16, torch.float32)
INTERPRETED = 3       # programs in the interpreter: fewer than tiles, as on a GPU


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def serves(device: torch.device) -> bool:
    """Whether these kernels are the ones for a device, if they can run there."""
    return device.type == "cuda" or device.type == "cpu" and interpreted()


def maps_dtype(x: torch.Tensor) -> torch.dtype:
    """The type of the maps of images x: that of autocast where it is on, else the images' own."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def dtype_for(network: torch.nn.Module, x: torch.Tensor | None) -> torch.dtype | None:
    """The type of the maps of a network for images x, or for some of its weights' type; None: not on a GPU."""
    x = next(network.parameters()) if x is None else x
    if not serves(x.device):
        return None
    return torch.bfloat16 if network.precision in ("bfloat16", "int8") and x.dtype == torch.float32 else maps_dtype(x)


def takes(x: torch.Tensor, weights: torch.dtype) -> bool:
    """Whether a network with weights of a type can be asked for images x: theirs, or any under autocast."""
    return x.dtype == weights or torch.is_autocast_enabled(x.device.type)


def refusal(x: torch.Tensor) -> str | None:
    """Why images x cannot run sparsely with these kernels, or None."""
    if maps_dtype(x) not in TYPES:
        return f"the sparse kernels for GPUs compute in bfloat16, float16 or float32, not {maps_dtype(x)}"
    return unavailable(x.device)


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device, in a line; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "the sparse kernels for GPUs need the package triton: pip install triton"
    if device.type == "cpu":
        return None if interpreted() else "the kernels for GPUs do not run on a CPU"
    if device.type != "cuda":
        return f"there are sparse kernels for CPUs and CUDA, not for {device.type}"
    if torch.version.hip is not None:
        return "the sparse kernels for GPUs are made for NVIDIA's, and this is ROCm"
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return f"the sparse kernels for GPUs need compute capability 8.0, and this GPU has {found[0]}.{found[1]}"
    return None


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Within it a device is the current one, on which kernels start; its stream is the caller's again afterwards."""
    if device.type != "cuda":
        yield
        return
    # PyTorch leaves a thread on the stream of a capture that fails.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        yield


def capturing() -> bool:
    """Whether the caller captures a CUDA graph now: nothing may wait for the device then."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type != "cuda":
        return INTERPRETED
    return torch.cuda.get_device_properties(device).multi_processor_count
