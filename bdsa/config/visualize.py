"""What can be configured in bdsa-visualize; like `bdsa.config.settings`, it imports nothing slow."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bdsa.budgets import Budgets
from bdsa.config.names import check_device, check_folder
from bdsa.config.setting import setting
from bdsa.config.settings import DataConfig
from bdsa.errors import UserError

PICTURES = ("overview", "density", "animation", "ponder", "masks", "soft")


@dataclass
class MaskedBudgets:
    targets: list[float] | None = setting(None, "default: all that were trained; 1 is dense and has no masks",
                                          check=Budgets)


@dataclass
class DeviceConfig:
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", check=check_device)
    threads: int | None = setting(None, "CPU threads; default: torch's choice", above=0, at_most=4096)


@dataclass
class VisualizeConfig:
    """Everything that `bdsa-visualize` takes."""
    checkpoint: str | None = setting(None, "best.pt or last.pt of a training, or a file of the authors' code")
    published: str | None = setting(None, "the architecture of such a file, such as resnet18_multi")
    budgets: MaskedBudgets = field(default_factory=MaskedBudgets)
    images: Any = setting(None, "a file, folder or 'photos/*.jpg', or a list of them; default: the split's")
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))     # default: the training's
    split: str | None = setting(None, "default: the one of the training's results", choices=("train", "val", "test"))
    count: int | None = setting(None, "images, drawn from all; default: 8, or every file that images= names",
                                above=0, at_most=1e6)
    pictures: list[str] = setting(list(PICTURES), "which kinds to draw", choices=PICTURES)
    plugins: list[str] = setting([], "what the training had, and of the data: files or folders")
    out: str | None = setting(None, "folder of the pictures; default: visualizations/ in the run's folder",
                              check=check_folder)
    trainer: DeviceConfig = field(default_factory=DeviceConfig)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule; afterwards `images` is a list or None."""
        if self.checkpoint is None:
            raise UserError("bdsa-visualize needs checkpoint=PATH, such as runs/NAME/checkpoints/best.pt")
        if self.images is not None:
            self.images = [str(i) for i in (self.images if isinstance(self.images, list) else [self.images])]
            if not self.images:
                raise UserError("images=[] is empty: name a file or a folder, or leave it out for the data set's split")
            if self.split is not None:
                raise UserError(f"split={self.split} chooses images of the data set and images=... files: give one")
