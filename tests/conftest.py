"""One thread, and a folder of images.

The networks are tiny, and two threads that share a core with another program crawl.
"""
import pytest
import torch
from small_data import write_folder

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pets", {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 2}})
