"""Checkpoints and exported files that are wrong in one place each, for the tests of what opens them."""
from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from bdsa.models.checkpoints import ModelSpec, network_content

HUGE = 10**30


def sound() -> dict[str, Any]:
    """A small checkpoint without a digest, so that nothing but its content can be refused."""
    torch.manual_seed(0)
    spec = ModelSpec("cifar_resnet8", 3, [0.3, 0.5])
    return network_content(spec.build(), spec, epoch=1, weights="raw", calibrated=True, classes=["a", "b", "c"],
                           config={"data": {"name": "folder", "root": "/nowhere"}, "plugins": []},
                           results={"image_size": 32, "rows": []})


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> dict:
    value: dict = {}
    value["again"] = value
    return value


def doubled(times: int) -> list:
    """2^times items of a few bytes in a file."""
    value: list = ["x"]
    for _ in range(times):
        value = [value, value]
    return value


WEIGHT = "layer1.0.conv1.weight"
# where -> values that cannot stand there
WRONG: dict[tuple[str, ...], list[Any]] = {
    ("model",): [None, 3, "resnet18", [], {}],
    ("model", "name"): [None, 7, "", "resnet18\nerror", "x" * 10_000, "hf-hub:someone/evil", "vit_tiny_patch16_224",
                        ["resnet18"]],
    ("model", "num_classes"): [None, "10", 0, -1, 2.5, True, HUGE, 10**9, 10**6, 4],
    ("model", "budgets"): [None, 0.5, [], ["0.5"], [0.5, 0.5], [-1.0], [float("nan")], [[0.5]], [HUGE],
                           [i / 10_000 for i in range(11, 9_000)], [0.3]],
    ("model", "norm_affine"): [None, 3, "both", ["separate"], {}],
    ("model", "mask_norm"): [None, 3, "layer", {"none": 1}],
    ("model", "submanifold"): [None, 1, "true", [True]],
    ("model", "args"): [None, [], "pretrained", {1: 2}, {"pretrained": True}, {"pretrained_cfg": {"url": "http://x"}},
                        {"checkpoint_path": "/etc/passwd"}, {"cache_dir": "/tmp"}, {"width": HUGE}, {"width": 10**9},
                        {"width": -4}, {"width": 0}, {"width": "16"}, {"width": [16]}, {"shortcut": "C"},
                        {"depth": 60_002}, {"depth": 9}, {"act_layer": "os.system"},
                        {"in_chans": 60_000}, {"in_chans": 0}, {"drop_path_rate": "much"}, {"global_pool": "eval(1)"},
                        {"num_classes": 5}, {"dims": [1, 2]}],
    ("model", "further"): [1],
    ("state_dict",): [None, [], {}, 3, {"x": 1}, {1: torch.zeros(1)}, {"fc.weight": torch.zeros(1)}],
    ("state_dict", WEIGHT): [None, "x", [1.0], torch.zeros(1), torch.zeros(1).expand(10**6, 10**6), torch.zeros(0),
                             torch.zeros(16, 16, 3, 3, dtype=torch.int64),
                             torch.zeros(16, 16, 3, 3, dtype=torch.complex64),
                             torch.zeros(16, 16, 3, 3).to_sparse(), torch.zeros(16, 16, 3, 3, device="meta")],
    ("state_dict", "further"): [torch.zeros(1)],
    ("confidence",): [3, [1], {"budgets": [0.3, 1.0]}, {"budgets": [0.1, 1.0], "fractions": [0.1, 1.0],
                                                       "levels": [0.0, 1.0], "images": 2},
                      {"budgets": [0.3, 1.0], "fractions": [0.3, HUGE], "levels": [0.0, 1.0], "images": 2},
                      {"budgets": [0.3, 1.0], "fractions": [0.3, 1.0], "levels": [1.0, 0.0], "images": 2}],
    ("epoch",): ["1", -1, 1.5, HUGE, True, [1]],
    ("calibrated",): ["yes", 1],
    ("weights",): [1, ["raw"]],
    ("attribution",): [3, {"by": "x"}],
    ("classes",): ["abc", ["a", "b"], ["a", "b", 3], {"a": 0}, [["a"], "b", "c"]],
    ("config",): [3, "x", ["data"], nested(40), cyclic(), {"x": doubled(40)}, {1: 2}, {"x": torch.zeros(1)},
                  {"x": "y" * 2_000_000}, {"x": 10**5000}],
    ("config", "data"): ["folder", 3, ["name"]],
    ("config", "model"): ["resnet18", 3],
    ("config", "plugins"): ["evil.py", [3], {"a": 1}, 7],
    ("results",): [3, [], doubled(30), {"image_size": -1}, {"image_size": "32"}, {"image_size": HUGE}],
    ("image_size",): ["32", -1, [1, 2, 3], {}, HUGE, 1.5],
    ("format",): [None, "other", 3, ["bdsa"], {}],
}


def contents() -> dict[str, dict[str, Any]]:
    """Checkpoints with one wrong value each, by what is wrong."""
    found = {}
    for place, values in WRONG.items():
        for index, value in enumerate(values):
            content = sound()
            part = content
            for key in place[:-1]:
                part[key] = dict(part[key])
                part = part[key]
            part[place[-1]] = value
            found[f"{'.'.join(place)}, {index}"] = content
    for key in ("model", "state_dict", "format"):
        content = sound()
        del content[key]
        found[f"without {key}"] = content
    return found


def torch_bytes(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def torch_files() -> dict[str, bytes]:
    """Files of torch.save that are broken as files, by how."""
    whole = torch_bytes(sound())
    chance = random.Random(0)
    found = {f"cut after {n} bytes": whole[:n] for n in (1, 4, 100, 5000, len(whole) // 2, len(whole) - 1)}
    for n in range(12):  # in the pickle, which comes first
        broken = bytearray(whole)
        for _ in range(20):
            broken[chance.randrange(40, 8000)] = chance.randrange(256)
        found[f"noise {n}"] = bytes(broken)
    found |= {"nothing": b"", "text": b"not a checkpoint\n" * 100, "zeros": bytes(10_000),
              "a pickled list": pickle.dumps([1, 2]), "a pickled number": torch_bytes(3), "a tensor": torch_bytes(
                  torch.zeros(2)), "an empty dictionary": torch_bytes({})}
    for name, entries in {"an empty archive": {}, "an archive of text": {"a.txt": b"x"},
                          "an archive without tensors": {"archive/data.pkl": b"}."},
                          "a pickle cut off": {"archive/data.pkl": b"\x80\x02}q"}}.items():
        found[name] = archived(entries)
    found["compressed"] = archived({"archive/data.pkl": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    found["larger storages than there are"] = larger_storages(whole)
    return found


def archived(entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def larger_storages(whole: bytes) -> bytes:
    """The archive with one storage's data cut to a single byte."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name in entries if "/data/" in name)
    return archived({**entries, first: entries[first][:1]})


def safetensors_file(content: dict[str, Any], change: Callable[[Any], Any] = json.dumps) -> bytes:
    """An exported file without a digest, whose stated content is `change` of what it should be."""
    stated = {key: value for key, value in deepcopy(content).items() if key != "state_dict"}
    tensors = {name: tensor.clone() for name, tensor in content["state_dict"].items()}
    return safetensors_bytes(tensors, metadata={"bdsa": change(stated)})


def safetensors_files() -> dict[str, bytes]:
    """Exported files that are broken as files or in what they state, by how."""
    whole = safetensors_file(sound())
    (length,) = struct.unpack("<Q", whole[:8])
    found = {f"cut after {n} bytes": whole[:n] for n in (0, 4, 8, 100, length, len(whole) - 1)}
    found |= {f"stated as {text[:12]}": safetensors_file(sound(), lambda _, t=text: t) for text in (
        "{", "3", "null", "[]", '"x"', "[" * 100_000, '{"format": "bdsa"', '{"format": "bdsa", "model": ' + "9" * 9000)}
    found |= {"a header of any length": struct.pack("<Q", 2**63) + whole[8:], "no header": struct.pack("<Q", 0),
              "a header of noise": whole[:8] + bytes(length) + whole[8 + length:],
              "tensors at another place": whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1)}
    return found
