"""What can be configured in bdsa-visualize; like `bdsa.config.settings`, it imports nothing slow."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bdsa.budgets import Budgets
from bdsa.config.rules import one_of
from bdsa.config.settings import DataConfig
from bdsa.errors import UserError

PICTURES = ("overview", "density", "ponder", "masks", "soft")


@dataclass
class MaskedBudgets:
    targets: list[float] | None = None  # default: all that were trained; 1 is dense and has no masks


@dataclass
class DeviceConfig:
    device: str = "auto"                # auto | cpu | cuda
    threads: int | None = None          # CPU threads; default: torch's choice


@dataclass
class VisualizeConfig:
    """Everything that `bdsa-visualize` takes."""
    checkpoint: str | None = None       # best.pt or last.pt of a training, or a file of the authors' code
    published: str | None = None        # the architecture of such a file, such as resnet18_multi
    budgets: MaskedBudgets = field(default_factory=MaskedBudgets)
    images: Any = None                  # a file, folder or 'photos/*.jpg', or a list of them; default: the split's
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))     # default: the training's
    split: str | None = None            # train | val | test; default: the one of the training's results
    count: int | None = None            # images, drawn from all; default: 8, or every file that images= names
    pictures: list[str] = field(default_factory=lambda: list(PICTURES))  # which kinds to draw
    plugins: list[str] = field(default_factory=list)  # what the training had, and of the data: files or folders
    out: str | None = None              # folder of the pictures; default: visualizations/ in the run's folder
    trainer: DeviceConfig = field(default_factory=DeviceConfig)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule; afterwards `images` is a list or None."""
        if self.checkpoint is None:
            raise UserError("bdsa-visualize needs checkpoint=PATH, such as runs/NAME/checkpoints/best.pt")
        if self.budgets.targets is not None:
            Budgets(self.budgets.targets)
        if self.split is not None:
            one_of("split", self.split, ("train", "val", "test"))
        if self.count is not None and self.count <= 0:
            raise UserError(f"count={self.count} must be above zero")
        for picture in self.pictures:
            one_of("picture", picture, PICTURES)
        if self.images is not None:
            self.images = [str(i) for i in (self.images if isinstance(self.images, list) else [self.images])]
            if not self.images:
                raise UserError("images=[] is empty: name a file or a folder, or leave it out for the data set's split")
            if self.split is not None:
                raise UserError(f"split={self.split} chooses images of the data set and images=... files: give one")
        one_of("trainer.device", self.trainer.device.split(":")[0], ("auto", "cpu", "cuda"))
