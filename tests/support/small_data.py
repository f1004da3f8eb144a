"""A data set of a few images, and the rule that every error keeps."""
from __future__ import annotations

import pytest
from PIL import Image

from bdsa.data.datasets import DataSpec
from bdsa.errors import UserError


def small(**options) -> DataSpec:
    """A cluttered_digits spec of a few dozen images."""
    return DataSpec(**{"train_images": 40, "val_images": 20, "test_images": 20, **options})


def check_one_line(message: str, call) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def write_folder(root, layout: dict[str, dict[str, int]], side: int = 20):
    """Write root/<split>/<class>/<k>.png with `layout[split][class]` images of one grey each."""
    for split, classes in layout.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.new("L", (side + 4, side), 40 * k + 10).save(folder / f"{k}.png")
    return root
