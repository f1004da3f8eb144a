"""The metrics file survives what happens to runs: crashes in mid-line, resumes, losses that are NaN."""
from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from bdsa.errors import UserError
from bdsa.runs.metrics import MetricsFile, flat


@pytest.fixture
def metrics(tmp_path):
    return MetricsFile(tmp_path / "run" / "metrics.jsonl")


def fill(metrics, epochs):
    for epoch in range(epochs):
        metrics.append({"kind": "train", "epoch": epoch, "loss": {"task": 1.0 / (epoch + 1)}})
        metrics.append({"kind": "eval", "epoch": epoch, "name": "b030", "budget": 0.3, "top1": 50.0 + epoch})


def test_rows_come_back_as_they_were_written(metrics):
    assert metrics.read() == []
    row = {"kind": "train", "epoch": 0, "step": 10, "loss": {"task": 0.1 + 0.2}, "note": "ä", "ok": True}
    metrics.append(row)
    assert metrics.read() == [row]
    assert MetricsFile(metrics.path).read() == [row]


def test_scalars_of_torch_and_numpy_are_numbers_and_what_is_not_finite_is_null(metrics):
    metrics.append({"epoch": np.int64(3), "lr": torch.tensor(0.5), "loss": {"task": float("nan")},
                    "a": float("inf"), "b": torch.tensor(float("-inf")), "c": [np.float32(1.5), np.nan]})
    text = metrics.path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "epoch": 3, "lr": 0.5, "loss": {"task": None}, "a": None, "b": None, "c": [1.5, None]}
    with pytest.raises(TypeError, match="Tensor"):
        metrics.append({"epoch": 4, "densities": torch.ones(2)})
    assert metrics.path.read_text() == text


@pytest.mark.parametrize("kept", [1, 20, -1])  # bytes of the last row left by the crash
def test_a_file_cut_off_in_mid_line_is_read_and_written_on(metrics, caplog, kept):
    fill(metrics, 2)
    before = metrics.read()
    last = json.dumps({"kind": "train", "epoch": 2, "loss": {"task": 0.25}}).encode()
    with open(metrics.path, "ab") as file:
        file.write(last[:kept])
    with caplog.at_level(logging.WARNING):
        assert metrics.read() == before
    assert "line 5" in caplog.text and str(metrics.path) in caplog.text
    metrics.append({"kind": "train", "epoch": 2})
    assert metrics.read() == [*before, {"kind": "train", "epoch": 2}]


def test_a_first_line_cut_off_leaves_an_empty_file(metrics):
    metrics.path.parent.mkdir()
    metrics.path.write_bytes(b'{"kind": "tr' * 1000)  # longer than a block that is read backwards
    assert metrics.read() == []
    metrics.append({"epoch": 0})
    assert metrics.read() == [{"epoch": 0}]


@pytest.mark.parametrize("broken", [b'{"kind": "tra', b"17", b"\xff\xfe"])
def test_a_broken_line_elsewhere_is_an_error_with_its_place(metrics, broken):
    fill(metrics, 2)
    lines = metrics.path.read_bytes().split(b"\n")
    metrics.path.write_bytes(b"\n".join([lines[0], broken, *lines[2:]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        metrics.read()


def test_a_resume_removes_the_rows_that_it_will_write_again(metrics):
    assert metrics.truncate_after(3) == 0 and not metrics.path.exists()
    fill(metrics, 5)
    with open(metrics.path, "ab") as file:
        file.write(b'{"kind": "ev')
    assert metrics.truncate_after(2) == 4
    assert [row["epoch"] for row in metrics.read()] == [0, 0, 1, 1, 2, 2]
    assert metrics.path.read_bytes().endswith(b"\n")
    assert [path.name for path in metrics.path.parent.iterdir()] == ["metrics.jsonl"]
    assert metrics.truncate_after(2) == 0


def test_nesting_becomes_slashes():
    assert flat({"epoch": 1, "loss": {"task": 1.0, "budget": {"b030": 2.0}}}) == {
        "epoch": 1, "loss/task": 1.0, "loss/budget/b030": 2.0}
