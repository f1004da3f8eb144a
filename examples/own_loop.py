"""Train an adaptive network in a loop of your own: plain PyTorch, no configuration, no trainer.

    python examples/own_loop.py            # some 4 minutes on one core
    python examples/own_loop.py --quick    # seconds, to see that it runs; it learns nothing

Measured on 2026-11-25 on two cores of an AMD EPYC (Zen 4), with one thread (OMP_NUM_THREADS=1), in 4 min 4 s of
processor time:

    budget   top-1     conditional fraction   MACs     share of the dense MACs
    0.3      97.55 %   0.298                  13.5 M   32.8 %
    0.5      97.65 %   0.501                  21.7 M   52.7 %
    0.7      98.30 %   0.700                  29.8 M   72.2 %
    1        98.10 %   1.000                  41.2 M   100.0 %
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

import bdsa
from bdsa.data.cluttered_digits import ClutteredDigits
from bdsa.data.crops import PaddedCrop
from bdsa.data.transforms import ToNormalized
from bdsa.report.results_table import print_table
from bdsa.training.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few steps on a few images")
parser.add_argument("--out", type=Path, default=Path("runs/own_loop.safetensors"), help="the file that bdsa.load reads")
asked = parser.parse_args()

# ----------------------------------------------------------------------------------------------------------------------
# What is trained, and how
NAME, BUDGETS, SIZE = "cifar_resnet14", [0.3, 0.5, 0.7, 1.0], 40
EPOCHS, IMAGES, TESTED = (2, 128, 50) if asked.quick else (8, 6000, 2000)
BATCH, RATE = 64, 2e-3
# Hard masks without noise suit a training this short. For a long one leave both to the paper's: temperatures of 5, 2.5
# and 1, and noise for the first 0.8 of the epochs.
SHORT = {"temperatures": [1.0], "noise_until": 0.0}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# ----------------------------------------------------------------------------------------------------------------------
# Data: any PyTorch data set of (float32 [3, H, W], label) would do
augmented, plain = Compose([PaddedCrop(SIZE, padding=5), ToNormalized(MEAN, STD)]), ToNormalized(MEAN, STD)
train_data = ClutteredDigits("train", SIZE, images=IMAGES, transform=augmented)
seen_plainly = ClutteredDigits("train", SIZE, images=min(IMAGES, 512), transform=plain)
test_data = ClutteredDigits("test", SIZE, images=TESTED, transform=plain)
torch.manual_seed(0)
batches = DataLoader(train_data, BATCH, shuffle=True, drop_last=True)

# ----------------------------------------------------------------------------------------------------------------------
# Network and optimiser. Without weight decay: norms and biases, and the mask units, which it would pull to a coin toss.
network = bdsa.create_model(NAME, BUDGETS, num_classes=10).to(memory_format=torch.channels_last)
weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
decayed = [p for name, p in weights.items() if p.ndim > 1 and "mask_units" not in name]
others = [p for name, p in weights.items() if p.ndim <= 1 or "mask_units" in name]
optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}])
total_steps = EPOCHS * len(batches)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps, pct_start=1 / EPOCHS, cycle_momentum=False)

# ----------------------------------------------------------------------------------------------------------------------
# The loop
objective = bdsa.Objective(network, **SHORT)
network.train()
step = 0
for epoch in range(EPOCHS):
    for images, labels in batches:
        # One budget a step, in turn: each owns its masks and norms, and all share the convolutions.
        budget = objective.budget_at(step)
        images = images.to(memory_format=torch.channels_last)
        logits, usage = network(images, **objective.asks(budget, step, total_steps))
        # To the task's loss it adds one term that asks for the budget, and one that keeps every block near it at
        # first, so that none is given up before it has learned anything.
        losses = objective(F.cross_entropy(logits, labels), usage, budget, step, total_steps)
        losses["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        step += 1
    print(f"epoch {epoch + 1} of {EPOCHS}: loss {losses['total'].item():.3f} at budget {budget:g}", flush=True)

# ----------------------------------------------------------------------------------------------------------------------
# Meet each budget exactly: one threshold a budget moves, by training images as inference sees them
for name, (before, after) in bdsa.calibrate(network, DataLoader(seen_plainly, 256)).items():
    print(f"{name}: conditional fraction {before:.3f} before the calibration, {after:.3f} after it")

# ----------------------------------------------------------------------------------------------------------------------
# Measure every budget on images of other originals
measured = evaluate(network, DataLoader(test_data, 250), network.budgets, torch.device("cpu"))
dense_macs, parameters = network.dense_macs((SIZE, SIZE)), sum(p.numel() for p in network.parameters())
print_table(measured.rows, dense_macs=dense_macs, parameters=parameters)

# ----------------------------------------------------------------------------------------------------------------------
# Keep it: the file says how to build the network again, and what else its reader may want to know
bdsa.save(network, asked.out, classes=train_data.classes, image_size=SIZE,
          results={"image_size": SIZE, "dense_macs": dense_macs, "rows": measured.rows})
print(f"wrote {asked.out}: bdsa.load('{asked.out}') gives the network for inference")
