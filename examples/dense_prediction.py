"""Segment and detect digits on large canvases with an adaptive backbone and torchvision's FCN and RetinaNet heads.

    python examples/dense_prediction.py task=segment            # ten minutes on one core; the same again goes on
    python examples/dense_prediction.py task=detect
    python examples/dense_prediction.py task=detect quick       # seconds, to see that it runs; it learns nothing
    python examples/dense_prediction.py task=segment steps=300 scenes=300 out=runs/short.safetensors

One training serves all budgets. A table says for each what it finds, at the size of the training and at a larger one,
and a picture shows it. What an image takes is measured by examples/dense_prediction_speed.py.
"""
from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch
from scene_models import BUDGETS, SURE, scene_model, take
from scipy.ndimage import label as connected
from torch import Tensor, nn

import bdsa
from bdsa.data.digit_scenes import MEAN, STD, DigitScenes, collate
from bdsa.machine import multiplies_bfloat16
from bdsa.report.pictures.ponder import overlay, ponder_map

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

words = dict((word.split("=", 1) + [""])[:2] for word in sys.argv[1:])
TASK, QUICK = words.get("task", "segment"), "quick" in words
OUT = Path(words.get("out", f"runs/scenes_{TASK}.safetensors"))      # the backbone; with heads it is beside it, in .pt
SIZE, LARGE = (96, 128) if QUICK else (256, 512)
STEPS, SCENES, TESTED = (int(words.get(name, quick if QUICK else usual)) for name, quick, usual in
                         (("steps", 6, 900), ("scenes", 8, 1200), ("tested", 4, 100)))
BATCH = 4 if QUICK else 8
HALF = multiplies_bfloat16()                                         # then it takes half the time
KEPT, EVERY = OUT.with_suffix(".pt"), 50                             # where a stopped training goes on

torch.manual_seed(0)
model = scene_model(TASK)
backbone = model.backbone.backbone
take(model, SIZE)
units = [p for name, p in model.named_parameters() if "mask_units" in name]
others = [p for name, p in model.named_parameters() if "mask_units" not in name]
optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.05}, {"params": units, "weight_decay": 0.0}])
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, cycle_momentum=False)
objective = bdsa.Objective(model, temperatures=[1.0], noise_until=0.0, warmup=0.25)   # as suits so short a training
step, parts = 0, {"model": model, "optimizer": optimizer, "schedule": schedule}
OUT.parent.mkdir(parents=True, exist_ok=True)
if KEPT.exists():
    kept = torch.load(KEPT)
    if (found := (kept.get("steps", STEPS), kept.get("size", SIZE))) != (STEPS, SIZE):
        sys.exit(f"{KEPT} is of a training of {found[0]} steps at {found[1]} pixels: give another out=, or remove it")
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    step = kept["step"]
    print(f"goes on at step {step} of {KEPT}")

drawn = list(DigitScenes("train", SIZE, SCENES)) if step < STEPS else []   # drawing takes longer than learning
model.train()
while step < STEPS:
    turn, place = divmod(step * BATCH, SCENES - SCENES % BATCH)
    order = torch.randperm(SCENES, generator=torch.Generator().manual_seed(turn))
    images, targets = collate([drawn[i] for i in order[place:place + BATCH].tolist()])
    budget = objective.budget_at(step)
    images = images.contiguous(memory_format=torch.channels_last)
    with objective.asking(budget, step, STEPS) as used, torch.autocast("cpu", torch.bfloat16, enabled=HALF):
        task = model.loss(images, targets)                           # the heads know nothing of budgets
    losses = objective(task, used.usage, budget, step, STEPS)
    losses["total"].backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    step += 1
    if step == STEPS:
        bdsa.calibrate(model, drawn[:96], images=96, call=lambda scene: backbone(scene[0][None]))
        bdsa.save(backbone, OUT, image_size=SIZE)
    if step % EVERY == 0 or step == STEPS:
        print(f"step {step}: loss {task.item():.3f} at budget {budget:g}, "
              f"fraction {losses['conditional_fraction'].item():.3f}", flush=True)
        torch.save({**{name: part.state_dict() for name, part in parts.items()}, "step": step, "steps": STEPS,
                    "size": SIZE}, KEPT)


def draw(axes: pyplot.Axes, image: Tensor, budget: float) -> None:
    """Where the backbone ran, and what was found: digits' pixels in colour, or boxes."""
    with backbone.at_budget(budget):
        found = model(image[None] if TASK == "segment" else [image])[0]
        _, usage = backbone(image[None], return_usage=True, budget=budget)
    side = image.shape[1:]
    colours = (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).clamp(0, 1)
    if budget < 1:
        axes.imshow(overlay(colours, ponder_map(usage.masks, side)[0].numpy(), len(usage.masks)))
    else:
        axes.imshow(colours.permute(1, 2, 0))
    if TASK == "segment":
        labels = found.argmax(dim=0)
        pieces, count = connected(labels.numpy() > 0)
        axes.contour(pieces > 0, levels=[0.5], colors=["cyan"], linewidths=0.8)
        for piece in range(1, count + 1):
            own = torch.from_numpy(pieces == piece)
            if own.sum() > 60:                                       # specks are not worth a name
                middle = own.nonzero().float().mean(dim=0).flip(0).tolist()
                axes.text(*middle, str(int(labels[own].mode().values) - 1), color="red", weight="bold")
    else:
        for box, label, score in zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist()):
            if score > SURE:
                axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, color="cyan"))
                axes.text(*box[:2], str(label - 1), color="red", weight="bold")
    share = usage.macs.item() / backbone.dense_macs(tuple(side))
    axes.set_title("dense" if budget == 1 else f"budget {budget:g}: {100 * share:.0f} % of the MACs", fontsize=8)
    axes.axis("off")


model.eval()
figure, grid = pyplot.subplots(2, 1 + len(BUDGETS), figsize=(2.6 * (1 + len(BUDGETS)), 5.4), layout="constrained")
for row, size in zip(grid, (SIZE, LARGE)):
    scenes = list(DigitScenes("test", size, TESTED if size == SIZE else max(2, TESTED // 2)))
    tests = [collate(scenes[start:start + 4]) for start in range(0, len(scenes), 4)]
    take(model, size)
    with torch.inference_mode():
        print(f"{TASK}, {len(scenes)} scenes of {size}x{size}:")
        for budget in backbone.budgets:
            with backbone.at_budget(budget):
                found = model.summary([model.score(images, targets) for images, targets in tests])
            used = [backbone(images, return_usage=True, budget=budget)[1] for images, _ in tests]
            share = torch.cat([each.macs for each in used]).mean().item() / backbone.dense_macs((size, size))
            fraction = torch.cat([each.conditional_fraction for each in used]).mean().item()
            print(f"  budget {budget:<4g} {found}; fraction {fraction:.3f}, "
                  f"{100 * share:5.1f} % of the backbone's MACs", flush=True)
        image = max(scenes[:12], key=lambda scene: len(scene[1]["labels"]))[0]
        row[0].imshow((image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).clamp(0, 1)
                      .permute(1, 2, 0))
        row[0].set_title(f"{size} x {size} pixels", fontsize=8)
        row[0].axis("off")
        for axes, budget in zip(row[1:], backbone.budgets):
            draw(axes, image, float(budget))
figure.savefig(OUT.with_suffix(".png"), dpi=110)
print(f"wrote {OUT}, {KEPT.name} and {OUT.with_suffix('.png').name}")
