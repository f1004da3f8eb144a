"""Files that someone sent: whatever is wrong with one is one line, found before anything is made or run."""
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from malformed_files import (
    contents,
    cyclic,
    safetensors_file,
    safetensors_files,
    sound,
    torch_bytes,
    torch_files,
)

import bdsa
from bdsa.errors import UserError
from bdsa.models.checkpoints import open_network, read_checkpoint
from bdsa.models.weights import read_file

CONTENTS, TORCH, SAFETENSORS = contents(), torch_files(), safetensors_files()
ROOM = 2**30  # bytes that opening a file of 250 kB may take at most


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch) -> None:
    """No file asks for the network."""
    def refuse(*_, **__):
        raise AssertionError("a file asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def refused(path: Path) -> str:
    """What is said against a file, in every way of opening it; it is one line that names the file."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, said = peak(), []
    for opening in (bdsa.load, open_network):
        with pytest.raises(UserError) as error:
            opening(path)
        said.append(str(error.value))
    assert all("\n" not in text and len(text) < 1500 for text in said), said
    assert str(path) in said[0], said
    assert peak() - before < ROOM
    return said[0]


def peak() -> int:
    """Bytes of memory that this process held at most since that was asked for anew."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def test_the_sound_files_open(tmp_path: Path) -> None:
    (tmp_path / "sound.pt").write_bytes(torch_bytes(sound()))
    (tmp_path / "sound.safetensors").write_bytes(safetensors_file(sound()))
    for path in tmp_path.iterdir():
        assert bdsa.load(path)(torch.zeros(1, 3, 32, 32), budget=0.3).shape == (1, 3)
    assert len(CONTENTS) + len(TORCH) + len(SAFETENSORS) > 120


@pytest.mark.parametrize("name", CONTENTS)
def test_a_checkpoint_with_one_wrong_value_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(torch_bytes(CONTENTS[name]))
    refused(tmp_path / "file.pt")


@pytest.mark.parametrize("name", TORCH)
def test_a_broken_torch_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(TORCH[name])
    refused(tmp_path / "file.pt")


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_broken_exported_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(SAFETENSORS[name])
    refused(tmp_path / "file.safetensors")


@pytest.mark.parametrize("name", [n for n in CONTENTS if n.startswith(("model.", "epoch", "config.", "classes"))])
def test_what_an_exported_file_states_is_checked_alike(name: str, tmp_path: Path) -> None:
    content = CONTENTS[name]
    try:
        written = safetensors_file(content)
    except (TypeError, ValueError):
        pytest.skip("JSON cannot state it")
    (tmp_path / "file.safetensors").write_bytes(written)
    refused(tmp_path / "file.safetensors")


@pytest.mark.parametrize("argument", ["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path",
                                      "cache_dir", "url", "features_only", "block", "device"])
def test_an_argument_that_does_not_shape_a_network_is_refused_by_name(argument: str, tmp_path: Path) -> None:
    content = sound()
    content["model"]["args"] = {argument: "x"}
    (tmp_path / "file.pt").write_bytes(torch_bytes(content))
    assert f"model.args '{argument}'" in refused(tmp_path / "file.pt")


def test_special_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", tmp_path, tmp_path / ("x" * 300 + ".pt")):
        with pytest.raises(UserError, match="weights file"):
            read_file(path)


def test_a_content_that_holds_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(torch_bytes({**sound(), "results": cyclic()}))
    assert "results is too deep" in refused(tmp_path / "file.pt")
    with pytest.raises(UserError, match="too deep"):
        read_checkpoint(tmp_path / "file.pt")


DENSE = {
    "numbers": {"fc.weight": 3, "fc.bias": "x"}, "of no dimension": {"fc.weight": torch.tensor(1.0)},
    "empty": {}, "nested in nothing": {"state_dict": {"model": {}}}, "a list": [1], "another network's": {
        "patch_embed.proj.weight": torch.zeros(4, 3, 16, 16)},
    "larger than it is": {name: torch.zeros(1).expand(10**7, 512) for name in ("fc.weight", "head.weight")},
    "ConvNeXt's, cut": {"downsample_layers.0.0.weight": torch.zeros(()), "stages.0.0.gamma": torch.zeros(3)},
    "mask units of no budget": {"layer1.0.masker99.maskconv.weight": torch.zeros(2), "fc.weight": torch.zeros(2, 512)},
    "mask units alone": {"layer1.0.masker03.maskconv.fc.weight": torch.zeros(1, 2, 3)},
    "a head of one number": {"layer1.0.masker.maskconv.fc.weight": torch.zeros(2), "fc.weight": torch.zeros(1)},
    "sparse": {"fc.weight": torch.zeros(2, 2).to_sparse()},
}


@pytest.mark.parametrize("kind", DENSE)
def test_weights_of_other_code_that_are_wrong_are_refused(kind: str, tmp_path: Path) -> None:
    torch.save(DENSE[kind], tmp_path / "file.pt")
    for opening in (lambda path: bdsa.create_model("resnet18", [0.5], 10, weights=path),
                    lambda path: bdsa.create_model("convnext_atto", [0.5], 10, weights=path, reset_head=True),
                    lambda path: bdsa.load_published_checkpoint(path, "resnet18", budget=0.5),
                    lambda path: open_network(path, "convnext_tiny_multi")):
        with pytest.raises(UserError) as error:
            opening(tmp_path / "file.pt")
        assert "\n" not in str(error.value)
