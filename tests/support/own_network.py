"""A network class of a user's own, made of timm's blocks and registered under a name."""
from __future__ import annotations

from timm.models.resnet import BasicBlock
from torch import Tensor, nn

import bdsa


class TwoStages(nn.Module):
    """A stem, two basic blocks and a linear classifier."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes, self.feature_info = num_classes, [{"num_chs": 8, "reduction": 1, "module": "body"}]
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.fc = nn.Linear(8, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def trunk(self) -> list[nn.Module]:
        return [self.stem, *self.body]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.body(self.stem(x)))


@bdsa.register_model("two_stages")
def two_stages(**arguments: int) -> TwoStages:
    return TwoStages(**arguments)
