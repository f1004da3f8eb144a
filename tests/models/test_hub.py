"""A network's way to the Hugging Face Hub and back, by folders: nothing here uses the network."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from sparse_cases import images_of

import bdsa

ROWS = [{"budget": 0.5, "top1": 91.25, "conditional_fraction": 0.501, "macs": 2.0e7}]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that is a folder; what it was told stands in told.json beside it."""
    class Api:
        def __init__(self, token=None):
            self.told = {"token": token}

        def create_repo(self, repository, private, exist_ok):
            assert exist_ok
            self.told["private"] = private
            (tmp_path / "hub" / repository).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, repo_id, folder_path, commit_message):
            (tmp_path / "told.json").write_text(json.dumps({**self.told, "message": commit_message}))
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    def download(repository, name, revision=None):
        path = tmp_path / "hub" / repository / name
        if revision not in (None, "main") or not path.exists():
            raise FileNotFoundError(f"404: {repository}, revision {revision}\nand more lines")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path / "hub"


def test_a_network_comes_back_as_it_went(hub):
    network, images = bdsa.create_model("cifar_resnet8", [0.5], 3).eval(), images_of((2, 32, 32))
    address = bdsa.push_to_hub(network, "someone/small-one", license="mit", classes=["a", "b", "c"], image_size=32,
                               results={"rows": ROWS, "dense_macs": 40_000_000}, attribution="trained by Someone")
    assert address == "https://huggingface.co/someone/small-one"
    for place in ("hf-hub:someone/small-one", "hf-hub:someone/small-one@main", hub / "someone/small-one"):
        again = bdsa.load(place)
        assert torch.equal(again(images, budget=0.5), network(images, budget=0.5)) and again.execution == "auto"
    card = (hub / "someone/small-one/README.md").read_text()
    front = card.split("---")[1]
    assert "license: mit" in front and "library_name: bdsa" in front and "pipeline_tag: image-classification" in front
    assert "# small-one" in card and "| 0.5 | 91.25 % | 0.501 | 50.0 % |" in card and "trained by Someone" in card
    config = json.loads((hub / "someone/small-one/config.json").read_text())
    assert config["architecture"] == "cifar_resnet8" and config["label_names"] == ["a", "b", "c"]
    with safe_open(hub / "someone/small-one/model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"  # which other readers ask for


@pytest.mark.parametrize("asked, told", [
    ({}, {"private": False, "token": None, "message": "Add the network"}),
    (dict(private=True, token="hf_secret", message="Second try"),
     {"private": True, "token": "hf_secret", "message": "Second try"})])
def test_a_private_network_stays_private(hub, asked, told):
    bdsa.push_to_hub(bdsa.create_model("cifar_resnet8", [0.5], 3), "someone/secret", **asked)
    assert json.loads((hub.parent / "told.json").read_text()) == told


def test_a_backbone_goes_too(hub):
    network = bdsa.create_model("cifar_resnet8", [0.5], features_only=True, out_indices=(1, 2)).eval()
    bdsa.push_to_hub(network, "someone/backbone")
    again, images = bdsa.load("hf-hub:someone/backbone"), images_of((1, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(again(images), network(images), strict=True))
    assert "image-feature-extraction" in (hub / "someone/backbone/README.md").read_text()


def test_what_cannot_be_is_one_line(hub):
    network = bdsa.create_model("cifar_resnet8", [0.5], 3)
    with pytest.raises(bdsa.UserError, match="hf-hub:someone/other cannot be had: 404: someone/other, revision None$"):
        bdsa.load("hf-hub:someone/other")
    with pytest.raises(bdsa.UserError, match="is not hf-hub:OWNER/NAME"):
        bdsa.load("hf-hub:someone")
    with pytest.raises(bdsa.UserError, match="'small-one' is not OWNER/NAME"):
        bdsa.push_to_hub(network, "small-one")
    with pytest.raises(bdsa.UserError, match="license 'MIT License' is no identifier"):
        bdsa.push_to_hub(network, "someone/small-one", license="MIT License")
    assert not (hub / "someone").exists()
