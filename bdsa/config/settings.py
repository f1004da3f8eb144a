"""What can be configured: one dataclass per group, checked once, before anything slow is imported.

The YAML files under conf/ fill these; below the entry points only these plain objects are seen.
Errors are UserErrors that name the value, the rule and the nearest right spelling.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from bdsa.budgets import Budgets
from bdsa.config.data import DataSpec
from bdsa.config.rules import one_of, positive, within
from bdsa.errors import UserError
from bdsa.method.awareness import METRICS


@dataclass
class ModelConfig:
    name: str = "cifar_resnet14"        # any timm ResNet or ConvNeXt, or cifar_resnet20 ...
    pretrained: bool = False            # timm's weights, from its hub
    weights: str | None = None          # a local file in place of the download
    start: str | None = None            # a trained adaptive network to go on from: a checkpoint or exported file
    reset_head: bool = False            # allow weights with another number of classes
    norm_affine: str = "separate"       # weight and bias of the norms per budget: separate | shared
    mask_norm: str = "none"             # of the mask units' logits: none | batch
    mask_start: str = "random"          # of the mask units: random | activity (where the block's input is strong)
    args: dict[str, Any] = field(default_factory=dict)  # further arguments of the timm model


@dataclass
class BudgetsConfig:
    targets: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.7, 1.0])  # in (0, 1]; 1.0 is dense
    network_weight: float = 10.0        # of (F - b)^2
    block_weight: float = 10.0          # of the bounds on every block
    warmup: float = 0.0                 # share of the training in which the wanted fraction falls from 1 to b
    control_gain: float = 0.0           # thresholds move by this times the missed fraction; 0: losses alone
    price: float = 0.0                  # of MACs: adds price * F to the loss; with control, masks spend where it pays
    task_weight: float = 1.0            # of the cross-entropy
    anneal: float = 0.33                # share of the epochs after which blocks are free
    temperatures: list[float] = field(default_factory=lambda: [5.0, 2.5, 1.0])  # of the masks' gradient, in order
    switches: list[float] | None = None  # shares of the epochs where the next temperature starts
    noise_until: float = 0.8            # share of the epochs with Gumbel noise
    differentiable_dilation: bool = True  # the first layer's cost teaches the masks
    cost_model: str = "executed"        # MACs that the budget losses see: executed | published; reports: executed
    calibrate: bool = True              # after training: thresholds that meet each budget
    calibration_images: int = 512       # training images used for that
    tolerance: float = 0.03             # of a result's fraction; an epoch may miss by 3x that before calibration


@dataclass
class AwarenessConfig:
    metric: str = "none"                # none | l1 | l2 | a plug-in's
    targets: str | None = None          # imagenet, cifar10 or a CSV file, such as bdsa-targets makes
    row: str | None = None              # the CSV's row; default: the model's name


@dataclass
class TeacherConfig:
    kind: str = "none"                  # none | self | model | checkpoint
    name: str | None = None             # any timm model (model), or the checkpoint's model
    weights: str | None = None          # local weights; default: timm's pretrained ones
    temperature: float = 20.0           # T of T^2 KL(teacher / T || student / T)
    weight: float = 0.01                # of that term


@dataclass
class DataConfig(DataSpec):
    """A data set (see DataSpec) and how it is read."""
    workers: int | None = None          # processes that read ahead, 0: this one reads; default: cores - 1, up to 8


@dataclass
class RecipeConfig:
    epochs: int = 8                     # passes over the training images
    batch_size: int = 64                # images of one budget's micro-batch, over all processes
    accumulation: int = 1               # micro-batches per optimiser step; budgets alternate
    optimizer: str = "adamw"            # any of timm's
    lr: float = 2e-3                    # peak learning rate
    momentum: float = 0.9               # of SGD
    weight_decay: float = 0.05          # none on norms and biases, unless decay_norms
    decay_norms: bool = False           # weight decay on norms and biases too
    backbone_lr_scale: float = 1.0      # learning rate of all but the mask units, relative
    freeze_backbone_epochs: int = 0     # first epochs, in which only mask units learn; statistics are still measured
    mask_lr_scale: float = 1.0          # the mask units' learning rate, relative
    mask_weight_decay: float = 0.0      # of the mask units, by the same rule
    schedule: str = "cosine"            # cosine | multistep | constant
    warmup_epochs: float = 1.0          # linear, from a hundredth of lr
    min_lr: float = 1e-5                # where cosine ends
    milestones: list[float] = field(default_factory=list)  # epochs (multistep)
    decay_rate: float = 0.1             # factor at each milestone
    label_smoothing: float = 0.0        # of the cross-entropy
    mixup: float = 0.0                  # alpha: images and labels of a batch are blended; 0: off
    cutmix: float = 0.0                 # alpha: rectangles are exchanged; with mixup too, a coin decides; 0: off
    drop_path: float = 0.0              # stochastic depth, the last block's rate
    ema_decay: float | None = None      # average the weights over the updates, such as 0.9999; the result is theirs
    clip_grad: float | None = None      # largest norm of the gradient

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that labels are soft."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        positive(self, "recipe", "epochs", "batch_size", "accumulation", "lr", "backbone_lr_scale", "mask_lr_scale")
        within(self, "recipe", 0, math.inf, "freeze_backbone_epochs", "mixup", "cutmix", "weight_decay")
        within(self, "recipe", 0, 0.999, "drop_path", "label_smoothing")
        one_of("recipe.schedule", self.schedule, ("cosine", "multistep", "constant"))
        if self.mixes and self.batch_size % 2:
            raise UserError(f"recipe.batch_size={self.batch_size} is odd: recipe.mixup and recipe.cutmix mix pairs of "
                            f"images, give {self.batch_size + 1}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"recipe.ema_decay={self.ema_decay} is outside (0, 1): give 0.9999, or null for no "
                            f"average")


@dataclass
class TrainerConfig:
    seed: int = 0                       # of weights, order, augmentation and noise
    device: str = "auto"                # auto | cpu | cuda
    threads: int | None = None          # CPU threads; default: torch's choice
    channels_last: bool = True          # memory layout; faster convolutions
    amp: str = "none"                   # training in mixed precision: none | bfloat16 | float16
    compile: bool = False               # training by torch.compile: slow at first, a graph a budget, then faster
    sync_batch_norm: bool = True        # several processes: statistics of the whole batch, as in one
    limit_train_batches: int | None = None  # dry runs
    limit_eval_images: int | None = None  # likewise
    eval_batch_size: int = 250          # images
    latency: bool = True                # afterwards: a second or a few for the table's latencies; on a CPU only
    pictures: int = 8                   # test images in the mask picture; 0: no pictures
    fresh: bool = False                 # discard what the run's folder holds


@dataclass
class TrackerConfig:
    mode: str = "wandb"                 # wandb | none
    project: str = "bdsa"               # of W&B
    group: str | None = None            # of W&B; default: in a sweep, the name of its folder
    tags: list[str] = field(default_factory=list)  # of W&B
    pictures_every: int = 10            # epochs from one picture of the masks to the next; 0: only at the end


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
    plugins: list[str] = field(default_factory=list)  # own models, data sets, metrics, options: files or folders
    name: str | None = None             # the run's name; default: made from the settings
    out: str = "runs"                   # where run folders go
    objective: str = "mean"             # what a search maximises: mean | worst top-1 of the budgets, or one's, as b030

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        one_of("objective", self.objective, ("mean", "worst", *Budgets(self.budgets.targets).names))
        self.recipe.check()
        positive(self.trainer, "trainer", "eval_batch_size")
        within(self.tracker, "tracker", 0, math.inf, "pictures_every")
        positive(self.teacher, "teacher", "temperature")
        within(self.budgets, "budgets", 0, math.inf, "network_weight", "block_weight", "task_weight", "warmup",
               "control_gain", "price")
        one_of("awareness.metric", self.awareness.metric, ("none", *METRICS))
        one_of("teacher.kind", self.teacher.kind, ("none", "self", "model", "checkpoint"))
        one_of("trainer.amp", self.trainer.amp, ("none", "bfloat16", "float16"))
        if self.model.start is not None and (self.model.pretrained or self.model.weights is not None):
            raise UserError(f"model.start={self.model.start} brings its weights: leave out "
                            f"model.{'pretrained' if self.model.pretrained else 'weights'}")
        one_of("budgets.cost_model", self.budgets.cost_model, ("executed", "published"))
        one_of("model.norm_affine", self.model.norm_affine, ("separate", "shared"))
        one_of("model.mask_norm", self.model.mask_norm, ("none", "batch"))
        one_of("model.mask_start", self.model.mask_start, ("random", "activity"))
        one_of("tracker.mode", self.tracker.mode, ("wandb", "none"))
        one_of("trainer.device", self.trainer.device.split(":")[0], ("auto", "cpu", "cuda"))
        if self.teacher.kind == "model" and self.teacher.name is None:
            raise UserError("teacher=model needs teacher.name=..., such as teacher.name=resnet50")
        if self.teacher.kind == "checkpoint" and self.teacher.weights is None:
            raise UserError("teacher=checkpoint needs teacher.weights=PATH")
        if len(self.budgets.temperatures) < 1 or min(self.budgets.temperatures) <= 0:
            raise UserError(f"budgets.temperatures={self.budgets.temperatures}: give at least one, all above zero")
        if self.budgets.switches is not None and len(self.budgets.switches) != len(self.budgets.temperatures) - 1:
            raise UserError(f"budgets.switches={self.budgets.switches} must have one value fewer than "
                            f"budgets.temperatures={self.budgets.temperatures}")
