"""What the commands beside bdsa-train take; the groups that they share are in `bdsa.config.settings`."""
from __future__ import annotations

from dataclasses import dataclass, field

from bdsa.budgets import Budgets
from bdsa.config.names import EXECUTIONS, FORMATS, PRECISIONS, check_folder, check_path
from bdsa.config.setting import setting
from bdsa.config.settings import DataConfig, ModelConfig, TrainerConfig
from bdsa.errors import UserError


@dataclass
class AskedBudgets:
    targets: list[float] | None = setting(None, "default: all that were trained, and bdsa-train's dense network",
                                          check=Budgets)


@dataclass
class EvaluateConfig:
    """Everything that `bdsa-evaluate` takes."""
    checkpoint: str | None = setting(None, "best.pt or last.pt of a training, or a file of the authors' code")
    published: str | None = setting(None, "the architecture of such a file, such as resnet18_multi")
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name=""))  # or a dense network
    budgets: AskedBudgets = field(default_factory=AskedBudgets)
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))     # default: the training's
    split: str | None = setting(None, "default: the one of the training's results",
                                choices=("train", "val", "test", "held_out"))
    plugins: list[str] = setting([], "what the training had, and of the data: files or folders")
    out: str | None = setting(None, "folder of results.json; default: beside the checkpoint", check=check_folder)
    execution: str = setting("auto", "auto: each block the faster way; masked: dense, then multiplied",
                             choices=EXECUTIONS)
    precision: str = setting("float32", "of the adaptive network; any other is compared with float32",
                             choices=PRECISIONS)
    per_image: bool = setting(False, "a budget is what no image exceeds, not a mean over them")
    cascade: bool = setting(False, "meet a budget by a second look at the images whose first answer is unsure")
    extrapolate: bool = setting(False, "allow budgets below the smallest trained one")
    curve_images: int = setting(2048, "training images for budgets between, where the checkpoint has no curves",
                                above=0, at_most=1e8)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if (self.checkpoint is None) == (not self.model.name):
            raise UserError("bdsa-evaluate needs either checkpoint=PATH or model=NAME (with model.weights=PATH)")
        if self.published is not None and self.checkpoint is None:
            raise UserError(f"published={self.published} says what a file of the authors' code holds: name the file "
                            f"with checkpoint=PATH")
        if self.precision == "int8" and self.execution == "masked":
            raise UserError("precision=int8 is of blocks that run sparsely, and execution=masked has none: leave it "
                            "out, or give precision=bfloat16")
        if self.cascade and self.per_image:
            raise UserError("cascade=true meets a budget as a mean over images, and per_image=true for each: leave out "
                            "one of them")
        if self.cascade and self.checkpoint is None:
            raise UserError(f"cascade=true is of an adaptive network, and model={self.model.name} is a dense one: name "
                            f"a trained one with checkpoint=PATH")


@dataclass
class ExportConfig:
    """Everything that `bdsa-export` takes."""
    checkpoint: str | None = setting(None, "best.pt of a training")
    format: str = setting("safetensors", "safetensors, for bdsa.load; or the sparse network for torch.export (pt2), "
                          "AOTInductor (aoti) or ONNX Runtime (onnx)", choices=tuple(FORMATS))
    out: str | None = setting(None, "the file; default: beside the checkpoint, named by its content", check=check_path)
    budgets: AskedBudgets = field(default_factory=AskedBudgets)
    between: bool = setting(False, "also any budget between, by curves: the weights five times for each two budgets")
    per_image: bool = setting(False, "a further input, per_image: whether a budget is what no image exceeds")
    cascade: bool = setting(False, "a budget is a mean over images, of which those with an unsure answer get a second "
                                   "look")
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))     # default: the training's
    images: int = setting(32, "of the data, that an exported sparse network is compared and timed on", at_least=1,
                          at_most=1e5)
    precision: str = setting("float32", "of an exported sparse network", choices=("float32", "bfloat16"))
    attribution: str | None = setting(None, "whom the weights are owed to, and the licence")
    curves: str | None = setting(None, "a results.json of bdsa-evaluate with curves, for a checkpoint without")
    plugins: list[str] = setting([], "what the training had: files or folders")

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.checkpoint is None:
            raise UserError("bdsa-export needs checkpoint=PATH, such as runs/NAME/checkpoints/best.pt")
        if self.out is not None and not self.out.endswith(FORMATS[self.format]):
            raise UserError(f"out={self.out} must end in {FORMATS[self.format]}, as format={self.format} does")
        if self.cascade and self.per_image:
            raise UserError("cascade=true takes any budget as a mean over images, which per_image=true contradicts: "
                            "leave out one of them")
        if self.cascade and self.between:
            raise UserError("cascade=true takes any mean budget as it is: leave out between=true")


@dataclass
class TargetsConfig:
    """Everything that `bdsa-targets` takes beside the folders."""
    out: str = setting("targets.csv", "the file; one that bdsa-targets made is replaced", check=check_path)
    dense: bool = setting(False, "a run of several budgets that trained 1.0 too gives the target of 1")
    budgets: list[float] | None = setting(None, "further columns to have, so that what is missing is said",
                                          check=Budgets)


@dataclass
class ReportConfig:
    """Everything that `bdsa-report` takes beside the folders."""
    out: str = setting("report", "the report's folder; one that bdsa-report made is replaced", check=check_folder)
    published: str = setting("auto", "numbers to compare with: auto | none | imagenet | cifar10 | a CSV file")
    budgets: list[float] | None = setting(None, "further columns to have, so that what is missing is said",
                                          check=Budgets)
    title: str = setting("BDSA report", "of the page")


@dataclass
class CompareConfig:
    """Everything that `bdsa-compare` takes beside the two folders."""
    out: str | None = setting(None, "a Markdown file to write too; one that bdsa-compare made is replaced",
                              check=check_path)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.out is not None and not self.out.endswith(".md"):
            raise UserError(f"out={self.out} must end in .md: the comparison is written as Markdown")
