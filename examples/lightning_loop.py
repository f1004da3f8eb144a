"""Train an adaptive network with Lightning: the budgets are three lines of the module's training step.

    pip install lightning
    python examples/lightning_loop.py            # some 5 minutes on one core
    python examples/lightning_loop.py --quick    # seconds, to see that it runs; it learns nothing
"""
from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import bdsa
from bdsa.data.cluttered_digits import ClutteredDigits
from bdsa.data.transforms import ToNormalized

MEAN, STD, SIZE, BATCH = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 40, 64


class AdaptiveClassifier(lightning.LightningModule):
    """One network for several budgets.

    Args:
        epochs: of the whole training.
        rate: the highest learning rate.
    """

    def __init__(self, epochs: int, rate: float = 2e-3) -> None:
        super().__init__()
        self.network = bdsa.create_model("cifar_resnet14", [0.3, 0.5, 0.7, 1.0], num_classes=10)
        self.objective = bdsa.Objective(self.network, temperatures=[1.0], noise_until=0.0)  # as suits a short training
        self.epochs, self.rate = epochs, rate

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> torch.Tensor:
        images, labels = batch
        step, steps = self.global_step, self.trainer.estimated_stepping_batches
        budget = self.objective.budget_at(step)
        logits, usage = self.network(images, **self.objective.asks(budget, step, steps))
        losses = self.objective(F.cross_entropy(logits, labels), usage, budget, step, steps)
        self.log(f"fraction/{budget.name}", losses["conditional_fraction"].detach().float(), prog_bar=True)
        return losses["total"]

    def on_fit_end(self) -> None:
        """Meet the budgets; here all processes have the same weights."""
        for name, (before, after) in bdsa.calibrate(self.network, self.trainer.train_dataloader).items():
            print(f"{name}: conditional fraction {before:.3f} before the calibration, {after:.3f} after it")

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> None:
        images, labels = batch
        for budget in self.network.budgets:
            hits = self.network(images, budget=budget).argmax(dim=1) == labels
            self.log(f"top1/{budget.name}", hits.float().mean(), on_epoch=True)

    def configure_optimizers(self) -> dict:
        # Mask units without weight decay, which would pull their decisions to a coin toss.
        units = [p for name, p in self.network.named_parameters() if "mask_units" in name]
        others = [p for name, p in self.network.named_parameters() if "mask_units" not in name]
        optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.05},
                                       {"params": units, "weight_decay": 0.0}])
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.rate, self.trainer.estimated_stepping_batches, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps on a few images")
    parser.add_argument("--out", type=Path, default=Path("runs/lightning.safetensors"), help="what bdsa.load reads")
    asked = parser.parse_args()
    epochs, images, tested = (2, 128, 64) if asked.quick else (8, 6000, 2000)
    lightning.seed_everything(0)
    plain = ToNormalized(MEAN, STD)
    batches = DataLoader(ClutteredDigits("train", SIZE, images=images, transform=plain), BATCH, shuffle=True)
    tests = DataLoader(ClutteredDigits("test", SIZE, images=tested, transform=plain), 256)
    module = AdaptiveClassifier(epochs)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="auto", logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, batches)
    trainer.test(module, tests)
    bdsa.save(module, asked.out, image_size=SIZE)
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
