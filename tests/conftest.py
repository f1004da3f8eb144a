"""One thread, a folder of images, and the option that runs the whole campaign.

The networks are tiny, and two threads that share a core with another program crawl: five times as long where each
worker of pytest starts a program of its own, which hence inherits the limit.
"""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from small_data import write_folder  # noqa: E402

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--campaign", action="store_true",
                     help="tests/project/test_campaign.py: all kills and all malformed command lines, some 30 minutes")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pets", {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 2}})
