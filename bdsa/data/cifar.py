"""CIFAR-10 and CIFAR-100 through torchvision: 32-pixel images kept in memory."""
from __future__ import annotations

from torchvision import datasets

from bdsa.data.image_folder import check_root
from bdsa.data.registry import DataSpec, Sources, register_dataset
from bdsa.errors import UserError, first_line


@register_dataset("cifar10", image_size=32, reads=("root", "download"))
def build_cifar10(spec: DataSpec) -> Sources:
    """50,000 training and 10,000 test images of 10 classes."""
    return _build(datasets.CIFAR10, spec)


@register_dataset("cifar100", image_size=32, reads=("root", "download"))
def build_cifar100(spec: DataSpec) -> Sources:
    """50,000 training and 10,000 test images of 100 classes."""
    return _build(datasets.CIFAR100, spec)


def _build(kind: type[datasets.CIFAR10], spec: DataSpec) -> Sources:
    root = check_root(spec, may_be_made=spec.download)
    try:
        train = kind(str(root), train=True, download=spec.download)
        test = kind(str(root), train=False)
    except (RuntimeError, OSError) as error:      # missing or damaged; no network, no space
        if spec.download:
            reason = first_line(error)
            raise UserError(f"cannot download {spec.name} to '{root}': {reason}") from error
        raise UserError(f"{spec.name} is missing or damaged in '{root}' (expected {kind.base_folder}): "
                        f"set data.download=true to fetch it") from error
    note = f"val is the test split: {spec.name} has no validation images"
    return Sources(train, test, test, list(train.classes), native_size=32, notes=[note])
