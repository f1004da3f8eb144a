"""Teachers from files: they see images as they were trained to see them, and name the classes as the data do."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bdsa
from bdsa.config.names import teacher_parts
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


def test_several_teach_the_mean_of_their_logits_each_in_its_own_normalisation(splits, tmp_path):
    both, others = [], {**OWN, "mean": [0.6, 0.5, 0.4]}
    for name, data in (("cifar_resnet8", OWN), ("cifar_resnet14", others)):
        both.append((bdsa.create_model(name, [1.0], num_classes=10).eval(), data))
        spec = checkpoints.ModelSpec(name, 10, [1.0])
        checkpoints.save(tmp_path / f"{name}.pt",
                         checkpoints.network_content(both[-1][0], spec, config={"data": data}))
    config = TeacherConfig("checkpoint", None, f"{tmp_path}/cifar_resnet8.pt",
                           others=[f"cifar_resnet14:{tmp_path}/cifar_resnet14.pt", f"{tmp_path}/cifar_resnet8.pt"])
    teacher = create_teacher(config, splits, "cifar_resnet8", torch.device("cpu"))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own = [[torch.tensor(data[key])[:, None, None] for key in ("mean", "std")] for _, data in both]
    with torch.no_grad():
        small, large = (net((images * 0.25 + 0.4 - mean) / std) for (net, _), (mean, std) in zip(both, own))
    expected = (2 * small + large) / 3
    found = teacher(None, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("text, expected", [
    ("cifar_resnet32:a/b.pt", ("cifar_resnet32", "a/b.pt")), ("a/b.safetensors", (None, "a/b.safetensors")),
    ("resnet50", ("resnet50", None)), ("C:/a/b.pt", (None, "C:/a/b.pt")), ("resnet50:C:/b.pt", ("resnet50", "C:/b.pt")),
    ("a:b/c.pt", (None, "a:b/c.pt")), ("resnet50:state", ("resnet50", "state"))])
def test_a_text_names_a_further_teacher(text, expected):
    assert teacher_parts(text) == expected


def test_the_classes_in_another_order_are_refused(network, splits, tmp_path):
    with pytest.raises(UserError, match="in another order, and would teach wrong ones"):
        teacher_of(network, splits, tmp_path / "best.pt", classes=splits.classes[::-1])


def test_other_classes_as_many_are_refused_with_both_lists(network, splits, tmp_path):
    with pytest.raises(UserError, match=r"trained for the classes a, b, c.*, the data have 0, 1, 2.*: name"):
        teacher_of(network, splits, tmp_path / "best.pt", classes=[*"abcdefghij"])
    config = TeacherConfig("checkpoint", None, str(tmp_path / "best.pt"))  # of a run that was begun with it
    assert create_teacher(config, splits, "cifar_resnet8", torch.device("cpu"), notes=(notes := []))
    assert len(notes) == 1 and "was trained for the classes a, b, c" in notes[0]
