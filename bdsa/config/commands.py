"""What the commands beside bdsa-train take; the groups that they share are in `bdsa.config.settings`."""
from __future__ import annotations

from dataclasses import dataclass, field

from bdsa.budgets import Budgets
from bdsa.config.names import EXECUTIONS
from bdsa.config.rules import one_of, positive
from bdsa.config.settings import DataConfig, ModelConfig, TrainerConfig
from bdsa.errors import UserError


@dataclass
class AskedBudgets:
    targets: list[float] | None = None  # default: all that were trained, and bdsa-train's dense network


@dataclass
class EvaluateConfig:
    """Everything that `bdsa-evaluate` takes."""
    checkpoint: str | None = None       # best.pt or last.pt of a training, or a file of the authors' code
    published: str | None = None        # the architecture of such a file, such as resnet18_multi
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name=""))  # or a dense network
    budgets: AskedBudgets = field(default_factory=AskedBudgets)
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))     # default: the training's
    split: str | None = None            # train | val | test | held_out; default: the one of the training's results
    plugins: list[str] = field(default_factory=list)  # what the training had, and of the data: files or folders
    out: str | None = None              # folder of results.json; default: beside the checkpoint
    execution: str = "auto"             # auto: each block the faster way | sparse | masked (dense, then multiplied)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if (self.checkpoint is None) == (not self.model.name):
            raise UserError("bdsa-evaluate needs either checkpoint=PATH or model=NAME (with model.weights=PATH)")
        if self.published is not None and self.checkpoint is None:
            raise UserError(f"published={self.published} says what a file of the authors' code holds: name the file "
                            f"with checkpoint=PATH")
        if self.budgets.targets is not None:
            Budgets(self.budgets.targets)
        if self.split is not None:
            one_of("split", self.split, ("train", "val", "test", "held_out"))
        one_of("execution", self.execution, EXECUTIONS)
        positive(self.trainer, "trainer", "eval_batch_size")


@dataclass
class ExportConfig:
    """Everything that `bdsa-export` takes."""
    checkpoint: str | None = None       # best.pt of a training
    out: str | None = None              # the file, *.safetensors; default: beside the checkpoint
    attribution: str | None = None      # whom the weights are owed to, and the licence
    plugins: list[str] = field(default_factory=list)  # what the training had: files or folders

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.checkpoint is None:
            raise UserError("bdsa-export needs checkpoint=PATH, such as runs/NAME/checkpoints/best.pt")


@dataclass
class TargetsConfig:
    """Everything that `bdsa-targets` takes beside the folders."""
    out: str = "targets.csv"            # the file; one that bdsa-targets made is replaced
    dense: bool = False                 # a run of several budgets that trained 1.0 too gives the target of 1
    budgets: list[float] | None = None  # further columns to have, so that what is missing is said

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.budgets is not None:
            Budgets(self.budgets)


@dataclass
class ReportConfig:
    """Everything that `bdsa-report` takes beside the folders."""
    out: str = "report"                 # the report's folder; one that bdsa-report made is replaced
    published: str = "auto"             # numbers to compare with: auto | none | imagenet | cifar10 | a CSV file
    budgets: list[float] | None = None  # further columns to have, so that what is missing is said
    title: str = "BDSA report"          # of the page

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.budgets is not None:
            Budgets(self.budgets)


@dataclass
class CompareConfig:
    """Everything that `bdsa-compare` takes beside the two folders."""
    out: str | None = None              # a Markdown file to write too; one that bdsa-compare made is replaced

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.out is not None and not self.out.endswith(".md"):
            raise UserError(f"out={self.out} must end in .md: the comparison is written as Markdown")
