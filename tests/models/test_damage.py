"""A flipped bit anywhere in a weights file is noticed when it is opened; files without a digest open."""
from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bdsa
from bdsa.errors import UserError
from bdsa.models.checkpoints import ModelSpec, network_content, read_checkpoint, save
from bdsa.models.weights import read_file
from bdsa.models.weights_file import write_weights_file

SEVERAL = 250  # bits of each file, beside those of its first and last bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    spec = ModelSpec("cifar_resnet8", 4, [0.3, 0.5])
    network = spec.build()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    content = network_content(network, spec, epoch=1, classes=list("abcd"), config={"data": {"name": "folder"}})
    save(folder / "last.pt", {**content, "optimizer": optimizer.state_dict()})
    save(folder / "best.pt", content)
    write_weights_file(folder / "exported.safetensors", content)
    return folder


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "exported.safetensors"])
def test_a_flipped_bit_is_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    whole, chance = (folder / name).read_bytes(), random.Random(1)
    places = [*range(150), *range(len(whole) - 150, len(whole)), *chance.sample(range(len(whole)), SEVERAL)]
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / name
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << chance.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert ("trainer.fresh=true" in str(error.value)) == (name == "last.pt")


@pytest.mark.parametrize("name", ["best.pt", "exported.safetensors"])
def test_a_file_that_is_cut_off_is_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    whole = (folder / name).read_bytes()
    for lost in (1, 2, 30, 64, 76, 77, 98, 99, 1000, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:-lost])
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(tmp_path / name)


def test_the_digest_is_small_and_leaves_the_file_to_torch(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "last.pt", weights_only=True)
    assert content["classes"] == list("abcd") and "optimizer" in content
    torch.save(content, tmp_path / "plain.pt")
    assert (folder / "last.pt").stat().st_size - (tmp_path / "plain.pt").stat().st_size < 8000


def test_files_without_a_digest_open(folder: Path, tmp_path: Path) -> None:
    content = read_file(folder / "best.pt")
    torch.save(content, tmp_path / "older.pt")
    with safe_open(folder / "exported.safetensors", framework="pt") as file:
        stated = json.loads(file.metadata()["bdsa"])
        assert stated.pop("digest") in file.metadata()  # which older ones do not say
    save_file(load_file(folder / "exported.safetensors"), tmp_path / "older.safetensors", {"bdsa": json.dumps(stated)})
    for older in tmp_path.iterdir():
        assert len(bdsa.load(older).budgets)


def test_the_published_networks_open() -> None:
    files = list((Path(__file__).parents[2] / "experiments").rglob("*.safetensors"))
    assert len(files) > 2 and all(len(bdsa.load(file).budgets) for file in files)
