"""Some images of a data set."""
from __future__ import annotations

import torch
from torch.utils.data import Dataset, Subset


def limited(dataset: Dataset, count: int | None) -> Dataset:
    """At most `count` images, always the same ones, drawn at random: data sets come sorted in many ways."""
    if count is None or count >= len(dataset):
        return dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return Subset(dataset, order[:count].tolist())


class Rows(Dataset):
    """Some rows of a data set, in its order; `source` stays reachable, and can be drawn ahead."""

    def __init__(self, source: Dataset, rows: list[int]) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple:
        return self.source[self.rows[index]]

    def draw(self) -> None:
        """Draw a generated source's images now; does nothing for others."""
        getattr(self.source, "draw", lambda: None)()
