"""Segment and detect digits on large canvases with an adaptive backbone and torchvision's FCN and RetinaNet heads.

    python examples/dense_prediction.py task=segment            # some minutes on one core
    python examples/dense_prediction.py task=detect
    python examples/dense_prediction.py task=detect quick       # seconds, to see that it runs; it learns nothing
    python examples/dense_prediction.py task=segment steps=150 scenes=300 tested=40

One training serves all budgets; a table says for each what it finds and how long an image takes, at the size of the
training and at a larger one. Times are those of one image, masked by itself, backbone alone and with neck and head.
"""
from __future__ import annotations

import sys
import time
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork, box_iou

import bdsa
from bdsa.data.digit_scenes import DigitScenes, collate

words = dict((word.split("=", 1) + [""])[:2] for word in sys.argv[1:])
TASK, QUICK = words.get("task", "segment"), "quick" in words
OUT = Path(words.get("out", f"runs/scenes_{TASK}.safetensors"))
BUDGETS, CLASSES, WIDTH = [0.1, 0.3, 1.0], 11, 48                    # class 0: no digit
SIZE, LARGE = (96, 128) if QUICK else (256, 512)
STEPS, SCENES, TESTED = (int(words.get(name, quick if QUICK else usual)) for name, quick, usual in
                         (("steps", 6, 500), ("scenes", 8, 600), ("tested", 4, 100)))
BATCH = 4 if QUICK else 8


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
        rare[0] = 0.1                                                # most pixels show no digit
        return F.cross_entropy(self(images), torch.stack([t["mask"] for t in targets]), rare)

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
        super().__init__(pyramid, CLASSES, min_size=SIZE, max_size=2 * LARGE, anchor_generator=anchors,
                         image_mean=[0.0] * 3, image_std=[1.0] * 3, fg_iou_thresh=0.4, bg_iou_thresh=0.3)
        self.transform.min_size = (SIZE,)

    def loss(self, images: Tensor, targets: list[dict]) -> Tensor:
        return sum(self(list(images), targets).values())

    def score(self, images: Tensor, targets: list[dict]) -> Tensor:
        """Digits found, digits there and boxes given, [3]: a box counts at an IoU of 0.5 and the right class."""
        right = given = 0
        for found, target in zip(self(list(images)), targets):
            sure = found["scores"] > 0.3
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


def milliseconds(module: nn.Module, images: Tensor | list[Tensor], times: int = 1 if QUICK else 7) -> float:
    """Least time of a call in milliseconds, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        module(images)
        taken.append(time.perf_counter() - started)
    return 1000 * min(taken[1:])


torch.manual_seed(0)
backbone = bdsa.create_model("resnet18", BUDGETS, features_only=True, out_indices=(2, 3, 4),
                             channels=(32, 64, 128, 256), mask_norm="batch")
model = (Segmenter if TASK == "segment" else Detector)(Pyramid(backbone))
drawn = list(DigitScenes("train", SIZE, SCENES))                     # in memory: drawing takes longer than learning
batches = DataLoader(drawn, BATCH, shuffle=True, drop_last=True, collate_fn=collate)
units = [p for name, p in model.named_parameters() if "mask_units" in name]
others = [p for name, p in model.named_parameters() if "mask_units" not in name]
optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.05}, {"params": units, "weight_decay": 0.0}])
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, cycle_momentum=False)
objective = bdsa.Objective(model, temperatures=[1.0], noise_until=0.0)   # as suits a training this short

model.train()
step = 0
while step < STEPS:
    for images, targets in batches:
        budget = objective.budget_at(step)
        with objective.asking(budget, step, STEPS) as used:          # the heads know nothing of budgets
            task = model.loss(images, targets)
        losses = objective(task, used.usage, budget, step, STEPS)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        step += 1
        if step % 50 == 0 or step == STEPS:
            print(f"step {step}: loss {task.item():.3f} at budget {budget:g}, "
                  f"fraction {losses['conditional_fraction'].item():.3f}", flush=True)
        if step == STEPS:
            break
bdsa.calibrate(model, drawn[:96], images=96, call=lambda scene: backbone(scene[0][None]))

model.eval()
bdsa.save(backbone, OUT, image_size=SIZE)
for size in (SIZE, LARGE):
    backbone.execution = "masked"
    tests = DataLoader(list(DigitScenes("test", size, TESTED if size == SIZE else TESTED // 4)), 4, collate_fn=collate)
    image = next(iter(tests))[0][:1].contiguous(memory_format=torch.channels_last)
    if TASK == "detect":
        model.transform.min_size = (size,)
    rows = []
    with torch.inference_mode():
        given = list(image) if TASK == "detect" else image
        dense = milliseconds(backbone, image), milliseconds(model, given)  # PyTorch's own
        for budget in backbone.budgets:
            with backbone.at_budget(budget):
                found = model.summary([model.score(images, targets) for images, targets in tests])
                usage = backbone(image, return_usage=True, budget=budget)[1]
                share = usage.macs.item() / backbone.dense_macs((size, size))
                backbone.execution = "sparse"
                times = milliseconds(backbone, image), milliseconds(model, given)
                backbone.execution = "masked"
            faster = [before / now for before, now in zip(dense, times)]
            rows.append(f"  budget {budget:<4g} {found}; {100 * share:5.1f} % of the MACs; backbone {times[0]:6.2f} ms "
                        f"({faster[0]:.2f} times as fast), whole {times[1]:6.2f} ms ({faster[1]:.2f} times)")
    print(f"{TASK}, {size}x{size}: dense PyTorch {dense[0]:.2f} ms the backbone, {dense[1]:.2f} ms the whole")
    print("\n".join(rows), flush=True)
print(f"wrote {OUT}")
