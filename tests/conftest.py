"""One thread, a folder of images, and the option that runs the whole campaign.

The networks are tiny, and two threads that share a core with another program crawl.
"""
import pytest
import torch
from small_data import write_folder

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--campaign", action="store_true",
                     help="tests/project/test_campaign.py: all kills and all malformed command lines, some 30 minutes")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pets", {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 2}})
