"""Train an adaptive network in several processes with PyTorch's DistributedDataParallel, budgets by turns.

    torchrun --nproc-per-node 2 examples/ddp_loop.py            # some 5 minutes on two cores
    torchrun --nproc-per-node 2 examples/ddp_loop.py --quick    # seconds, to see that it runs; it learns nothing

A step trains one budget, and the mask units and norms of the others get no gradient. DDP waits for every gradient and
stops with "Expected to have finished reduction in the prior iteration" unless it is told: find_unused_parameters=True.
Parameters that no process used keep a gradient of None, so that no optimiser moves them. All processes must train the
same budget in the same step: it follows from the number of the step. Several budgets a step need a backward pass each,
all but the last within `model.no_sync()`, which DDP does not do right with unused parameters: leave the wrapper away
and call `bdsa.distributed.average_gradients(network.parameters())` before the optimiser's step.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import bdsa
from bdsa.data.cluttered_digits import ClutteredDigits
from bdsa.data.transforms import ToNormalized

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few steps on a few images")
parser.add_argument("--out", type=Path, default=Path("runs/ddp.safetensors"), help="the file that bdsa.load reads")
asked = parser.parse_args()

MEAN, STD, SIZE, BATCH = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 40, 32  # of each process
EPOCHS, IMAGES, TESTED = (2, 256, 64) if asked.quick else (8, 6000, 2000)

on_gpus = torch.cuda.is_available()
dist.init_process_group("nccl" if on_gpus else "gloo")
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpus else torch.device("cpu")
main = dist.get_rank() == 0
torch.manual_seed(0)

plain = ToNormalized(MEAN, STD)
train_data = ClutteredDigits("train", SIZE, images=IMAGES, transform=plain)
sampler = DistributedSampler(train_data, drop_last=True)
batches = DataLoader(train_data, BATCH, sampler=sampler, drop_last=True)
network = bdsa.create_model("cifar_resnet14", [0.3, 0.5, 0.7, 1.0], num_classes=10).to(device)
model = DistributedDataParallel(network, find_unused_parameters=True)
units = [p for name, p in network.named_parameters() if "mask_units" in name]
others = [p for name, p in network.named_parameters() if "mask_units" not in name]
optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.05}, {"params": units, "weight_decay": 0.0}], 2e-3)

objective = bdsa.Objective(model, temperatures=[1.0], noise_until=0.0)  # as suits a training this short
step, steps = 0, EPOCHS * len(batches)
model.train()
for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for images, labels in batches:
        budget = objective.budget_at(step)
        logits, usage = model(images.to(device), **objective.asks(budget, step, steps))
        losses = objective(F.cross_entropy(logits, labels.to(device)), usage, budget, step, steps)
        losses["total"].backward()
        moved = {name.split(".mask_units.")[1].split(".")[0] for name, p in network.named_parameters()
                 if ".mask_units." in name and p.grad is not None}
        assert moved <= {budget.name}, f"step {step} at {budget.name} moves {moved}"
        optimizer.step()
        optimizer.zero_grad()  # sets gradients to None
        step += 1
    if main:
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {losses['total'].item():.3f} at budget {budget:g}", flush=True)

# Every process would calibrate to the same thresholds on the same images; one does, and the file is its.
if main:
    for name, (before, after) in bdsa.calibrate(network, DataLoader(train_data, 256)).items():
        print(f"{name}: conditional fraction {before:.3f} before the calibration, {after:.3f} after it")
    tests = DataLoader(ClutteredDigits("test", SIZE, images=TESTED, transform=plain), 256)
    network.eval()
    with torch.inference_mode():
        for budget in network.budgets:
            hits = [network(x.to(device), budget=budget).argmax(dim=1) == y.to(device) for x, y in tests]
            print(f"{budget.name}: top-1 {100 * torch.cat(hits).float().mean().item():.2f} %")
    bdsa.save(network, asked.out, image_size=SIZE)
    print(f"wrote {asked.out}")
dist.barrier()
dist.destroy_process_group()
