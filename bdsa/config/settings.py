"""What can be configured: one dataclass per group, checked once, before anything slow is imported.

The YAML files under conf/ fill these; below the entry points only these plain objects are seen.
Errors are UserErrors that name the value, the rule and the nearest right spelling.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bdsa.budgets import Budgets
from bdsa.config.data import DataSpec
from bdsa.config.names import check_device, check_folder, check_run_name, check_teachers
from bdsa.config.setting import setting
from bdsa.errors import UserError, unknown
from bdsa.method.awareness import METRICS

TRACKERS = ("wandb", "tensorboard", "mlflow", "csv")
SAMPLES = ("listed", "continuous")


@dataclass
class ModelConfig:
    name: str = setting("cifar_resnet14", "any timm ResNet or ConvNeXt, or cifar_resnet20 ...")
    pretrained: bool = setting(False, "timm's weights, from its hub")
    weights: str | None = setting(None, "a local file in place of the download")
    start: str | None = setting(None, "a trained adaptive network to go on from: a checkpoint or exported file")
    reset_head: bool = setting(False, "allow weights with another number of classes")
    norm_affine: str = setting("separate", "weight and bias of the norms per budget", choices=("separate", "shared"))
    mask_norm: str = setting("none", "of the mask units' logits", choices=("none", "batch"))
    mask_start: str = setting("random", "of the mask units; activity: where the block's input is strong",
                              choices=("random", "activity"))
    submanifold: bool = setting(False, "a block's first layer runs where its mask is, not around it too (ResNets)")
    args: dict[str, Any] = setting({}, "further arguments of the timm model")


@dataclass
class BudgetsConfig:
    targets: list[float] = setting([0.3, 0.5, 0.7, 1.0], "in (0, 1]; 1.0 is dense", check=Budgets)
    schedule: str = setting("round_robin", "of the steps: a budget each, or the largest, the smallest and some between",
                            choices=("round_robin", "sandwich"))
    sample: str = setting("listed", "what steps train: the targets, or any budget of the range of those below 1",
                          choices=SAMPLES)
    between: int = setting(1, "sandwich: how many of the budgets between, by turns", at_least=0, at_most=1000)
    network_weight: float = setting(10.0, "of (F - b)^2", at_least=0, at_most=1e6)
    block_weight: float = setting(10.0, "of the bounds on every block", at_least=0, at_most=1e6)
    warmup: float = setting(0.0, "share of the training in which the wanted fraction falls from 1 to b",
                            at_least=0, at_most=1)
    control_gain: float = setting(0.0, "thresholds move by this times the missed fraction; 0: losses alone",
                                  at_least=0, at_most=1e6)
    price: float = setting(0.0, "of MACs: adds price * F to the loss; with control, masks spend where it pays",
                           at_least=0, at_most=1e6)
    task_weight: float = setting(1.0, "of the cross-entropy", at_least=0, at_most=1e6)
    anneal: float = setting(0.33, "share of the epochs after which blocks are free", above=0, at_most=1)
    temperatures: list[float] = setting([5.0, 2.5, 1.0], "of the masks' gradient, in order", above=0, at_most=1e3)
    switches: list[float] | None = setting(None, "shares of the epochs where the next temperature starts",
                                           at_least=0, at_most=1)
    noise_until: float = setting(0.8, "share of the epochs with Gumbel noise", at_least=0, at_most=1)
    differentiable_dilation: bool = setting(True, "the first layer's cost teaches the masks")
    cost_model: str = setting("executed", "MACs that the budget losses see; reports: executed",
                              choices=("executed", "published"))
    calibrate: bool = setting(True, "after training: thresholds that meet each budget")
    calibration_images: int = setting(512, "training images used for that", above=0, at_most=1e8)
    tolerance: float = setting(0.03, "of a result's fraction; an epoch may miss by 3x that before calibration",
                               at_least=0, at_most=1)


@dataclass
class AwarenessConfig:
    metric: str = setting("none", "how far a budget lags", choices=lambda: ("none", *METRICS))
    targets: str | None = setting(None, "imagenet, cifar10 or a CSV file, such as bdsa-targets makes")
    row: str | None = setting(None, "the CSV's row; default: the model's name")


@dataclass
class TeacherConfig:
    kind: str = setting("none", "self: the network's own dense path", choices=("none", "self", "model", "checkpoint"))
    name: str | None = setting(None, "any timm model (model), or the checkpoint's model")
    weights: str | None = setting(None, "local weights; default: timm's pretrained ones")
    others: list[str] = setting([], "further teachers, NAME:FILE, FILE or NAME each: the mean of all logits teaches",
                                check=check_teachers)
    temperature: float = setting(20.0, "T of T^2 KL(teacher / T || student / T)", above=0, at_most=1e4)
    weight: float = setting(0.01, "of that term", at_least=0, at_most=1e6)
    beta: float | None = setting(None, "of decoupled distillation (DKD), the weight of the classes beside the label; "
                                       "default: as KL weighs them", at_least=0, at_most=1e6)
    students: str = setting("all", "largest: it teaches the largest budget, which teaches the others (sandwich)",
                            choices=("all", "largest"))

    def check(self) -> None:
        """Raise UserError for what does not go together."""
        if self.kind == "model" and self.name is None:
            raise UserError("teacher=model needs teacher.name=..., such as teacher.name=resnet50")
        if self.kind == "checkpoint" and self.weights is None:
            raise UserError("teacher=checkpoint needs teacher.weights=PATH")
        if self.others and self.kind not in ("model", "checkpoint"):
            raise UserError(f"teacher.others={self.others} teach beside a network of teacher=model or "
                            f"teacher=checkpoint, and teacher={self.kind} is none: give the first as teacher=FILE")
        if self.beta is not None and self.kind == "none":
            raise UserError(f"teacher.beta={self.beta} weighs what a teacher says, and teacher=none says nothing: "
                            f"give teacher=... too")


@dataclass
class DataConfig(DataSpec):
    """A data set (see DataSpec) and how it is read."""
    workers: int | None = setting(None, "processes that read ahead, 0: this one reads; default: cores - 1, up to 8",
                                  at_least=0, at_most=1024)


@dataclass
class RecipeConfig:
    epochs: int = setting(8, "passes over the training images", above=0, at_most=1e6)
    batch_size: int = setting(64, "images of one budget's micro-batch, over all processes", above=0, at_most=1e6)
    accumulation: int = setting(1, "micro-batches per optimiser step; budgets alternate", above=0, at_most=1e6)
    optimizer: str = setting("adamw", "any of timm's")
    lr: float = setting(2e-3, "peak learning rate", above=0, at_most=1e3)
    momentum: float = setting(0.9, "of SGD", at_least=0, below=1)
    weight_decay: float = setting(0.05, "none on norms and biases, unless decay_norms", at_least=0, at_most=1e3)
    decay_norms: bool = setting(False, "weight decay on norms and biases too")
    backbone_lr_scale: float = setting(1.0, "learning rate of all but the mask units, relative", above=0, at_most=1e6)
    freeze_backbone_epochs: int = setting(0, "first epochs, in which only mask units learn and statistics are measured",
                                          at_least=0, at_most=1e6)
    mask_lr_scale: float = setting(1.0, "the mask units' learning rate, relative", above=0, at_most=1e6)
    mask_weight_decay: float = setting(0.0, "of the mask units, by the same rule", at_least=0, at_most=1e3)
    schedule: str = setting("cosine", "of the learning rate", choices=("cosine", "multistep", "constant"))
    warmup_epochs: float = setting(1.0, "linear, from a hundredth of lr; none with schedule=constant", at_least=0,
                                   at_most=1e6)
    min_lr: float = setting(1e-5, "where cosine ends", at_least=0, at_most=1e3)
    milestones: list[float] = setting([], "epochs (multistep)", at_least=0, at_most=1e6)
    decay_rate: float = setting(0.1, "factor at each milestone", above=0, at_most=1e3)
    label_smoothing: float = setting(0.0, "of the cross-entropy", at_least=0, at_most=0.999)
    mixup: float = setting(0.0, "alpha: images and labels of a batch are blended; 0: off", at_least=0, at_most=1e3)
    cutmix: float = setting(0.0, "alpha: rectangles are exchanged; with mixup too, a coin decides; 0: off",
                            at_least=0, at_most=1e3)
    drop_path: float = setting(0.0, "stochastic depth, the last block's rate", at_least=0, at_most=0.999)
    ema_decay: float | None = setting(None, "of weights averaged over the updates, such as 0.9999; they are the result",
                                      above=0, below=1)
    clip_grad: float | None = setting(None, "largest norm of the gradient", above=0, at_most=1e9)

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that labels are soft."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if self.mixes and self.batch_size % 2:
            raise UserError(f"recipe.batch_size={self.batch_size} is odd: recipe.mixup and recipe.cutmix mix pairs of "
                            f"images, give {self.batch_size + 1}")

    def check_rates(self) -> None:
        """Raise UserError for rates that do what nobody means; a run that was begun with them may go on."""
        if self.milestones != sorted(set(self.milestones)):
            raise UserError(f"recipe.milestones={self.milestones} must ascend: give {sorted(set(self.milestones))}")
        if self.schedule == "multistep" and not self.milestones:
            raise UserError(f"recipe.schedule=multistep has no milestones, so that the rate would stay recipe.lr="
                            f"{self.lr:g}: give recipe.milestones=[EPOCH,...], or recipe.schedule=constant")
        if self.schedule == "cosine" and self.min_lr > self.lr:
            raise UserError(f"recipe.min_lr={self.min_lr:g}, where the cosine ends, is above recipe.lr={self.lr:g}: "
                            f"give recipe.min_lr=0, or a larger recipe.lr")


@dataclass
class TrainerConfig:
    seed: int = setting(0, "of weights, order, augmentation and noise", at_least=0, at_most=2**63 - 1)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", check=check_device)
    threads: int | None = setting(None, "CPU threads; default: torch's choice", above=0, at_most=4096)
    channels_last: bool = setting(True, "memory layout; faster convolutions")
    amp: str = setting("none", "training in mixed precision", choices=("none", "bfloat16", "float16"))
    compile: bool = setting(False, "training by torch.compile: slow at first, a graph a budget, then faster")
    sync_batch_norm: bool = setting(True, "several processes: statistics of the whole batch, as in one")
    limit_train_batches: int | None = setting(None, "dry runs", above=0, at_most=1e9)
    limit_eval_images: int | None = setting(None, "likewise", above=0, at_most=1e9)
    eval_batch_size: int = setting(250, "images", above=0, at_most=1e6)
    latency: bool = setting(True, "afterwards: a second or a few for the table's latencies; on a CPU only")
    pictures: int = setting(8, "test images in the mask picture; 0: no pictures at all", at_least=0, at_most=1000)
    fresh: bool = setting(False, "discard what the run's folder holds")


@dataclass
class TrackerConfig:
    mode: str = setting("wandb", "where metrics are mirrored", choices=("none", *TRACKERS))
    also: list[str] = setting([], "further ones beside it, such as [csv,tensorboard]", choices=TRACKERS)
    project: str = setting("bdsa", "of W&B and MLflow")
    group: str | None = setting(None, "of W&B and MLflow; default: in a sweep, the name of its folder")
    tags: list[str] = setting([], "of W&B and MLflow")
    pictures_every: int = setting(10, "epochs from one picture of the masks to the next; 0: only at the end",
                                  at_least=0, at_most=1e6)


@dataclass
class TrainConfig:
    """Everything that `bdsa-train` takes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    budgets: BudgetsConfig = field(default_factory=BudgetsConfig)
    awareness: AwarenessConfig = field(default_factory=AwarenessConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    plugins: list[str] = setting([], "own models, data sets, metrics, options: files or folders")
    name: str | None = setting(None, "the run's name; default: made from the settings", check=check_run_name)
    out: str = setting("runs", "where run folders go", check=check_folder)
    maximize: str = setting("mean", "by a search: the mean or the worst top-1 of the budgets, or one's, as b030")

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        names = ("mean", "worst", *Budgets(self.budgets.targets).names)
        if self.maximize not in names:
            raise unknown("maximize", self.maximize, names)
        self.recipe.check()
        if self.model.start is not None and (self.model.pretrained or self.model.weights is not None):
            raise UserError(f"model.start={self.model.start} brings its weights: leave out "
                            f"model.{'pretrained' if self.model.pretrained else 'weights'}")
        if self.teacher.students == "largest" and (self.teacher.kind == "none" or self.budgets.schedule != "sandwich"):
            raise UserError("teacher.students=largest needs a teacher and budgets.schedule=sandwich: a budget teaches "
                            "others only where they see the same images in one step")
        self.teacher.check()
        if self.teacher.beta is not None and self.recipe.mixes:
            raise UserError(f"teacher.beta={self.teacher.beta} tells an image's label from its other classes, and "
                            f"mixed images have several labels: leave out recipe.mixup and recipe.cutmix, or "
                            f"teacher.beta")
        if self.budgets.sample == "continuous" and len(Budgets(self.budgets.targets).adaptive) < 2:
            raise UserError(f"budgets.sample=continuous trains a range of budgets, and budgets.targets="
                            f"{self.budgets.targets} has fewer than two below 1: give its ends, such as [0.3,0.7,1.0]")
        if not self.budgets.temperatures:
            raise UserError("budgets.temperatures is empty: give at least one, such as [1]")
        if self.budgets.switches is not None and len(self.budgets.switches) != len(self.budgets.temperatures) - 1:
            raise UserError(f"budgets.switches={self.budgets.switches} must have one value fewer than "
                            f"budgets.temperatures={self.budgets.temperatures}")
