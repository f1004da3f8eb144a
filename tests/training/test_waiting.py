"""The host never waits for the device within a step: nothing is read back, nothing is copied from pageable memory."""
from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from steps import batch, make_step, take
from torch.utils._python_dispatch import TorchDispatchMode

import bdsa
from bdsa.training.teachers import DenseTeacher

EVERYTHING = dict(ema_decay=0.9, mixup=0.8, cutmix=1.0, clip_grad=1.0, drop_path=0.1, control_gain=2.0,
                  trainer={"amp": "bfloat16"}, teacher={"kind": "self"}, optimizer="momentum")


class NoWaiting(TorchDispatchMode):
    """Refuses a value as a Python number, a shape that depends on values, and a tensor made of Python numbers, which
    on a device is a copy from memory that is not pinned."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "index.Tensor", "lift_fresh", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = function._schema.name.removeprefix("aten::"), str(function).removeprefix("aten.")
        assert not {*names} & {*self.WAITS}, function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: torch.tensor([1.0, 2.0])])
def test_what_waits_is_seen(wait):
    x = torch.ones(2)
    with pytest.raises(AssertionError), NoWaiting():
        wait(x)


# Apart: where a frozen backbone and the dense budget leave no gradient, torch makes a zero on the host.
@pytest.mark.parametrize("options", [{"budgets": (0.3, 1.0)}, {"budgets": (0.3, 0.7), "freeze_backbone_epochs": 1}])
def test_a_step_never_waits_for_the_device(options):
    step = make_step(**EVERYTHING, **options)
    batches = [batch(number) for number in range(6)]
    step.start_epoch(0)
    for number in range(3):
        step(number, *batches[number])
    with NoWaiting():
        for number in range(3, 6):
            step(number, *batches[number])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_never_waits_for_a_gpu():
    step = make_step(**EVERYTHING, device=torch.device("cuda"))
    step.start_epoch(0)
    batches = [[part.pin_memory() for part in batch(number)] for number in range(6)]
    for number in range(3):
        step(number, *batches[number])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3, 6):
            step(number, *batches[number])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_dense_teacher_never_waits():
    torch.manual_seed(0)
    network = bdsa.create_model("cifar_resnet8", [1.0], num_classes=10)
    network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    teacher = DenseTeacher(network, [0.4] * 3, [0.25] * 3)
    images = batch(0)[0]
    with NoWaiting():
        logits = teacher(None, images)
    brightness = images * 0.25 + 0.4
    torch.testing.assert_close(logits, network((brightness - 0.5) / 0.2), rtol=1e-4, atol=1e-5)
    assert not logits.requires_grad


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_teachers_weights_have_the_layout_of_the_images(tmp_path, channels_last):
    torch.save(bdsa.create_model("cifar_resnet8", [1.0], num_classes=10).state_dict(), tmp_path / "dense.pt")
    step = make_step(trainer={"channels_last": channels_last},
                     teacher={"kind": "checkpoint", "weights": str(tmp_path / "dense.pt")})
    seen = {}
    convolution = step.losses.teacher.network.layer1[0].conv1
    convolution.register_forward_pre_hook(lambda module, args: seen.update(x=args[0], weight=module.weight))
    take(step, 0, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(t.is_contiguous(memory_format=layout) for t in seen.values()) and len(seen) == 2


FAULTS = """
import resource
from bdsa.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_memory()
faults()
print(before > 0, faults() < before / 100)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another allocator")
def test_memory_that_is_freed_is_kept():
    assert subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True).stdout == "True True\n"
