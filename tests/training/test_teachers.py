"""Teachers from files: they see images as they were trained to see them, and name the classes as the data do."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bdsa
from bdsa.config.settings import TeacherConfig
from bdsa.data.datasets import DataSpec, Splits, create_splits
from bdsa.errors import UserError
from bdsa.models import checkpoints
from bdsa.models.network import AdaptiveNetwork
from bdsa.training.teachers import Teacher, create_teacher

OWN = {"name": "cluttered_digits", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}


@pytest.fixture
def splits() -> Splits:
    return create_splits(DataSpec("cluttered_digits", image_size=32, train_images=8, val_images=8, test_images=8,
                                  mean=[0.4] * 3, std=[0.25] * 3))


@pytest.fixture
def network() -> AdaptiveNetwork:
    return bdsa.create_model("cifar_resnet8", [1.0], num_classes=10).eval()


def teacher_of(network: AdaptiveNetwork, splits: Splits, path: Path, **content: object) -> Teacher:
    spec = checkpoints.ModelSpec("cifar_resnet8", 10, [1.0])
    checkpoints.save(path, checkpoints.network_content(network, spec, **content))
    return create_teacher(TeacherConfig("checkpoint", "cifar_resnet8", str(path)), splits, "cifar_resnet8",
                          torch.device("cpu"))


def test_it_sees_images_in_the_normalisation_of_its_own_training(network, splits, tmp_path):
    teacher = teacher_of(network, splits, tmp_path / "best.pt", config={"data": OWN}, classes=splits.classes)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(OWN[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = network((images * 0.25 + 0.4 - mean) / std)
    torch.testing.assert_close(teacher(None, images), expected, rtol=1e-4, atol=1e-5)


def test_the_classes_in_another_order_are_refused(network, splits, tmp_path):
    with pytest.raises(UserError, match="in another order, and would teach wrong ones"):
        teacher_of(network, splits, tmp_path / "best.pt", classes=splits.classes[::-1])
