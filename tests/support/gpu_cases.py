"""Networks for the GPU's kernels in Triton's interpreter, a script for a process of its own with TRITON_INTERPRET=1.

    python tests/support/gpu_cases.py CASE...

Memory that is not written yet holds NaN. A case that gives something else than masked execution raises.
"""
from __future__ import annotations

import copy
import sys
import time
from dataclasses import replace

import torch
from sparse_cases import BUDGETS, assert_same, both, images_of, masks_like, network_of

from bdsa.method.curves import Curve
from bdsa.sparse.execution import executor_of
from bdsa.sparse.executors import executors_of
from bdsa.sparse.gpu import lists
from bdsa.sparse.gpu.contents import GpuContents
from bdsa.sparse.gpu.executor import GpuExecutor

# Every block type, stride and shortcut, few blocks each; channels that fill no tile; blocks that share a board.
NARROW = {"channels": (16, 24, 32, 20)}
SHORT = {
    "cifar_resnet8": {}, "resnet18": {"layers": (1, 2, 1, 1), **NARROW}, "resnet26": {"layers": (2, 1, 2, 1), **NARROW},
    "resnet26d": {"layers": (1, 2, 1, 1), **NARROW},
    "resnext50_32x4d": {"layers": (1, 1, 2, 1), "cardinality": 4, "base_width": 16, **NARROW},
    "resnet10t": {"down_kernel_size": 3, "layers": (1, 2, 1, 1), **NARROW},
    "cifar_resnet8 submanifold": {"submanifold": True},
    "resnet26 submanifold": {"submanifold": True, "layers": (2, 2, 1, 1), **NARROW},
    "resnext50_32x4d submanifold": {"submanifold": True, "layers": (2, 1, 1, 1), "cardinality": 4, "base_width": 16,
                                    **NARROW},
    "convnext_atto": {"depths": (1, 2, 1, 1), "dims": (24, 40, 96, 48)},
    "convnext_pico": {"use_grn": False, "conv_mlp": True, "depths": (1, 2, 1, 1), "dims": (16, 24, 32, 40)},
    "convnextv2_atto": {"depths": (1, 2, 1, 1), "dims": (16, 24, 32, 40)},
}
KINDS = ("empty", "full", "one position")
EVERY_KIND = {"cifar_resnet8": KINDS, "resnet26": KINDS, "cifar_resnet8 submanifold": KINDS, "resnet18": ("full",),
              "convnextv2_atto": KINDS}
# Of those, what has kernels of its own in 16 bits: two layers in one.
HALF = {"resnet26": {"layers": (2, 2, 1, 1), **NARROW},
        "resnet26 submanifold": {"submanifold": True, "layers": (2, 1, 1, 1), **NARROW},
        "convnext_atto": {"depths": (1, 2, 1, 1), "dims": (48, 40, 32, 96)}}


def same(name: str) -> None:
    """Logits, masks and costs, for the units' own masks and for those of other kinds."""
    network = network_of(name, **SHORT[name])
    small = name.startswith("cifar")  # without a stem that divides sizes by four
    assert_same(*both(network, images_of((2, 17, 23) if small else (2, 33, 47)), BUDGETS[0]))
    assert isinstance(executor_of(network, "b040"), GpuExecutor)
    for kind in EVERY_KIND.get(name, ()):
        images, network.execution = images_of((1, 9, 14) if small else (1, 32, 40)), "masked"  # seconds less
        assert_same(*both(network, images, BUDGETS[1], masks_like(network, images, kind)))


def half(name: str) -> None:
    """float16 weights and maps, for the same masks as float32."""
    network, images = network_of(name, **HALF[name]), images_of((1, 40, 33))
    network.execution = "masked"
    narrow = copy.deepcopy(network).half()
    with torch.inference_mode():
        for kind in ("scattered", "full"):
            masks = masks_like(network, images, kind)
            network.execution = "masked"
            expected = network(images, budget=BUDGETS[0], masks=masks)
            narrow.execution = "sparse"
            found = narrow(images.half(), budget=BUDGETS[0], masks=masks)
            assert found.dtype == torch.float16, found.dtype
            assert (found.float() - expected).abs().max() < 1e-2 * (expected.max() - expected.min())
    assert executor_of(narrow, "b040").dtype == torch.float16


def autocast() -> None:
    """A network in float32 under autocast runs in autocast's type."""
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    masks = masks_like(network, images, "scattered")
    with torch.inference_mode():
        expected = network(images, budget=BUDGETS[0], masks=masks)
        network.execution = "sparse"
        with torch.autocast("cpu", torch.float16):
            found = network(images, budget=BUDGETS[0], masks=masks)
    assert found.dtype == torch.float16
    assert (found.float() - expected).abs().max() < 1e-2 * (expected.max() - expected.min())


def compiled() -> None:
    """torch.compile goes around the kernels: one unbroken graph of masked execution, with the same logits and masks."""
    network, images = network_of("cifar_resnet8"), images_of((1, 8, 12))
    network.execution = "sparse"
    with torch.inference_mode():
        expected, usage = network(images, budget=BUDGETS[0], return_usage=True)
        found, seen = torch.compile(network, backend="eager", fullgraph=True)(images, budget=BUDGETS[0],
                                                                              return_usage=True)
    assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
    assert all(torch.equal(a, b) for a, b in zip(seen.masks, usage.masks, strict=True))


def large() -> None:
    """Maps that are too large for one program an image: several sum up their contexts and make their lists."""
    lists.ONE_PROGRAM = 100
    for name in ("cifar_resnet8", "convnextv2_atto"):
        network = network_of(name, **SHORT[name])
        assert_same(*both(network, images_of((1, 40, 56)), BUDGETS[0]))


def not_finite() -> None:
    """What is not a number in an image shows in its logits, and in no other image's."""
    network, images = network_of("cifar_resnet8"), images_of((2, 32, 32))
    images[1, 0, 3, 3] = float("nan")
    network.execution = "sparse"
    with torch.inference_mode():
        logits = network(images, budget=BUDGETS[0])
    assert not logits[0].isnan().any() and logits[1].isnan().all()


def changed() -> None:
    """Weights that change are seen, whatever changes them."""
    network, images = network_of("cifar_resnet8"), images_of((1, 16, 16))
    assert_same(*both(network, images, BUDGETS[0]))
    network.layer1[0].conv2.weight.data.mul_(1.5)
    network.layer2[0].bn2.per_budget["b040"].running_mean.data.add_(0.2)
    assert_same(*both(network, images, BUDGETS[0]))


def between() -> None:
    """Budgets that were not trained: moved thresholds and blended norms."""
    network, images = network_of("cifar_resnet8"), images_of((1, 16, 16))
    curve = Curve((0.0, 1.0), (0.4, 0.7), ((0.4,) * 3, (0.7,) * 3), 1)
    network.curves = {"b040": curve, "b070": replace(curve, fractions=(0.7, 0.9))}
    assert network.point(0.55).blend is not None and network.point(0.55).offset > 0
    assert_same(*both(network, images, 0.55))
    (made,) = executors_of(network).made.values()
    assert made.executor.blocks()[0].norms == network.point(0.55).blend


def contents() -> None:
    """One byte is enough, in any type and layout; a NaN is the same as itself."""
    tensors = [torch.randn(3, 5), torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last), torch.tensor(3),
               torch.randn(7).bfloat16(), torch.tensor([float("nan")]), torch.randn(9001), torch.empty(0)]
    kept = GpuContents(tensors)
    assert kept.same()
    for tensor in tensors[:-1]:
        last = tensor.flatten()[-1:].clone()
        tensor[(-1,) * tensor.dim()] = 9
        assert not kept.same()
        tensor[(-1,) * tensor.dim()] = last[0]
        assert kept.same()


def no_images() -> None:
    """A batch of none has no logits, of the right number of classes."""
    for name in ("resnet26", "convnextv2_atto"):
        network, images = network_of(name, **SHORT[name]), images_of((1, 33, 40))[:0]
        network.execution = "sparse"
        with torch.inference_mode():
            logits, usage = network(images, budget=BUDGETS[0], return_usage=True)
            assert logits.shape == network(images, budget=BUDGETS[0]).shape == (0, 10), logits.shape
        assert [len(mask) for mask in usage.masks] == [0] * len(usage.masks)
        assert isinstance(executor_of(network, "b040"), GpuExecutor)


def unrounded() -> None:
    """Logits of bfloat16 maps are float32's: rounded, many would be equal."""
    network, images = network_of("cifar_resnet8"), images_of((1, 9, 14))
    network.execution, network.precision = "sparse", "bfloat16"
    with torch.inference_mode():
        logits = network(images, budget=BUDGETS[0])
    assert isinstance(executor_of(network, "b040"), GpuExecutor)
    assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())


def masked_blocks() -> None:
    """Blocks that `auto` lets run masked, between others that do not."""
    for name in ("resnet26", "convnext_atto"):
        network, images = network_of(name, **SHORT[name]), images_of((1, 33, 40))
        with torch.inference_mode():
            expected = network(images, budget=BUDGETS[0])
            executor = executor_of(network, "b040")
            for first in (0, 1):
                executor.set_break_even([(-1.0, 2.0)[(i + first) % 2] for i in range(len(executor.blocks()))])
                found, _ = executor.classify(images, None, False, network.forward_head)
                assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


CASES = {**{name: lambda name=name: same(name) for name in SHORT},
         **{f"half {name}": lambda name=name: half(name) for name in HALF},
         **{f.__name__: f for f in (autocast, compiled, large, not_finite, changed, between, contents, no_images,
                                    unrounded, masked_blocks)}}


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        started = time.process_time()
        CASES[case]()
        print(f"ok: {case} ({time.process_time() - started:.1f} s)", flush=True)
