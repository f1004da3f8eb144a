"""The networks of examples/dense_prediction.py: an adaptive backbone under torchvision's FCN and RetinaNet heads."""
from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork, box_iou

import bdsa

BUDGETS, CLASSES, WIDTH = [0.1, 0.3, 1.0], 11, 64                    # class 0: no digit
SURE = 0.3                                                           # of a box's score, to count


class Pyramid(nn.Module):
    """Backbone and neck: maps of 8, 16 and 32 pixels a position, WIDTH channels each."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, WIDTH
        self.neck = FeaturePyramidNetwork(backbone.feature_info.channels(), WIDTH)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.neck(OrderedDict((str(i), m) for i, m in enumerate(self.backbone(images))))


class Segmenter(nn.Module):
    """FCN's head on the finest map."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.backbone, self.head = pyramid, FCNHead(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.head(self.backbone(images)["0"]), images.shape[2:], mode="bilinear")

    def loss(self, images: Tensor, targets: list[dict]) -> Tensor:
        rare = torch.ones(CLASSES)
        rare[0] = 0.02                                               # most pixels show no digit
        return F.cross_entropy(self(images).float(), torch.stack([t["mask"] for t in targets]), rare)

    def score(self, images: Tensor, targets: list[dict]) -> Tensor:
        """Intersection and union of each class, [2, CLASSES]."""
        found, true = self(images).argmax(dim=1), torch.stack([t["mask"] for t in targets])
        pairs = [((found == c) & (true == c), (found == c) | (true == c)) for c in range(CLASSES)]
        return torch.tensor([[int(both.sum()), int(either.sum())] for both, either in pairs]).T

    @staticmethod
    def summary(scores: list[Tensor]) -> str:
        both, either = torch.stack(scores).sum(dim=0)[:, 1:].double()
        return f"mean IoU {100 * float((both / either.clamp(min=1)).mean()):5.1f} %"


class Detector(RetinaNet):
    """RetinaNet with an anchor of a digit's size at each position of the finest map, and larger ones above."""

    def __init__(self, pyramid: Pyramid) -> None:
        anchors = AnchorGenerator(((24,), (48,), (96,)), ((1.0, 1.5),) * 3)
        super().__init__(pyramid, CLASSES, min_size=256, max_size=2048, anchor_generator=anchors,
                         image_mean=[0.0] * 3, image_std=[1.0] * 3, fg_iou_thresh=0.4, bg_iou_thresh=0.3)

    def loss(self, images: Tensor, targets: list[dict]) -> Tensor:
        return sum(self(list(images), targets).values())

    def score(self, images: Tensor, targets: list[dict]) -> Tensor:
        """Digits found, digits there and boxes given, [3]: a box counts at an IoU of 0.5 and the right class."""
        right = given = 0
        for found, target in zip(self(list(images)), targets):
            sure = found["scores"] > SURE
            boxes, labels = found["boxes"][sure], found["labels"][sure]
            given += len(boxes)
            if len(boxes) and len(target["boxes"]):
                fits = (box_iou(target["boxes"], boxes) > 0.5) & (target["labels"][:, None] == labels[None])
                right += int(fits.any(dim=1).sum())
        return torch.tensor([right, sum(len(t["boxes"]) for t in targets), given])

    @staticmethod
    def summary(scores: list[Tensor]) -> str:
        right, there, given = torch.stack(scores).sum(dim=0).tolist()
        return f"recall {100 * right / max(1, there):5.1f} %, precision {100 * right / max(1, given):5.1f} %"


def scene_model(task: str) -> Segmenter | Detector:
    """A ResNet-18 of half the width for BUDGETS, in what segments or detects digits."""
    backbone = bdsa.create_model("resnet18", BUDGETS, features_only=True, out_indices=(2, 3, 4),
                                 channels=(32, 64, 128, 256), mask_norm="batch")
    return (Segmenter if task == "segment" else Detector)(Pyramid(backbone))


def take(model: Segmenter | Detector, size: int) -> None:
    """Say what size images are: a detector scales them to one."""
    if isinstance(model, Detector):
        model.transform.min_size = (size,)
