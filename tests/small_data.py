"""A data set of a few images, and the rule that every error keeps."""
from __future__ import annotations

import pytest

from bdsa.data.datasets import DataSpec
from bdsa.errors import UserError


def small(**options) -> DataSpec:
    """A cluttered_digits spec of a few dozen images."""
    return DataSpec(**{"train_images": 40, "val_images": 20, "test_images": 20, **options})


def check_one_line(message: str, call) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
