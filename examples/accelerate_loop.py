"""Train an adaptive network with Hugging Face's Accelerate, on one device or, by `accelerate launch`, on several.

    pip install accelerate
    python examples/accelerate_loop.py            # some 5 minutes on one core
    python examples/accelerate_loop.py --quick    # seconds, to see that it runs; it learns nothing
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.utils.data import DataLoader

import bdsa
from bdsa.data.cluttered_digits import ClutteredDigits
from bdsa.data.transforms import ToNormalized

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few steps on a few images")
parser.add_argument("--out", type=Path, default=Path("runs/accelerate.safetensors"), help="what bdsa.load reads")
asked = parser.parse_args()

MEAN, STD, SIZE, BATCH = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 40, 64
EPOCHS, IMAGES, TESTED = (2, 128, 64) if asked.quick else (8, 6000, 2000)

# A step trains one budget: the mask units and norms of the others get no gradient, which DDP must be told.
accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
set_seed(0)
plain = ToNormalized(MEAN, STD)
train_data = ClutteredDigits("train", SIZE, images=IMAGES, transform=plain)
batches = DataLoader(train_data, BATCH, shuffle=True, drop_last=True)
tests = DataLoader(ClutteredDigits("test", SIZE, images=TESTED, transform=plain), 256)
network = bdsa.create_model("cifar_resnet14", [0.3, 0.5, 0.7, 1.0], num_classes=10)
units = [p for name, p in network.named_parameters() if "mask_units" in name]
others = [p for name, p in network.named_parameters() if "mask_units" not in name]
optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.05}, {"params": units, "weight_decay": 0.0}], 2e-3)
model, optimizer, batches, tests = accelerator.prepare(network, optimizer, batches, tests)

objective = bdsa.Objective(model, temperatures=[1.0], noise_until=0.0)  # as suits a training this short
step, steps = 0, EPOCHS * len(batches)
model.train()
for epoch in range(EPOCHS):
    for images, labels in batches:
        budget = objective.budget_at(step)
        logits, usage = model(images, **objective.asks(budget, step, steps))
        losses = objective(F.cross_entropy(logits, labels), usage, budget, step, steps)
        accelerator.backward(losses["total"])
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    accelerator.print(f"epoch {epoch + 1} of {EPOCHS}: loss {losses['total'].item():.3f} at budget {budget:g}")

network = accelerator.unwrap_model(model)
for name, (before, after) in bdsa.calibrate(network, batches).items():
    accelerator.print(f"{name}: conditional fraction {before:.3f} before the calibration, {after:.3f} after it")

network.eval()
hits = {budget.name: [] for budget in network.budgets}
with torch.inference_mode():
    for images, labels in tests:
        for budget in network.budgets:
            right = network(images, budget=budget).argmax(dim=1) == labels
            hits[budget.name].append(accelerator.gather_for_metrics(right))
for name, parts in hits.items():
    accelerator.print(f"{name}: top-1 {100 * torch.cat(parts).float().mean().item():.2f} %")
if accelerator.is_main_process:
    bdsa.save(network, asked.out, image_size=SIZE)
    print(f"wrote {asked.out}")
