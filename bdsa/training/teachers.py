"""Teachers for distillation: none, the network's own dense path, or any dense network."""
from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdsa.budgets import DENSE, Budget
from bdsa.config.names import teacher_parts
from bdsa.config.settings import TeacherConfig
from bdsa.data.class_names import shortened
from bdsa.data.datasets import Splits
from bdsa.data.transforms import normalisation
from bdsa.errors import UserError
from bdsa.models import checkpoints
from bdsa.models.factory import create_dense_model, with_channels
from bdsa.models.weights import OTHER_CLASSES
from bdsa.training.compilation import compiled_teacher

log = logging.getLogger(__name__)

Teacher = Callable[[nn.Module, Tensor], Tensor]  # (student network, images) -> logits [B, classes]


def self_teacher(network: nn.Module, images: Tensor) -> Tensor:
    """The network's own dense path on the same images, without gradient.

    It runs in the network's current mode: with batch statistics while training, so that it stays a
    sensible teacher where the dense budget itself is not trained.
    """
    with torch.no_grad():
        return network(images, budget=DENSE)


class Lesson:
    """What is taught about one batch: the teacher looks once, however many budgets learn from it.

    Args:
        teacher: what `create_teacher` gave, or None.
        network, images: the student, and the batch [B, 3, H, W].
        handed_on: the teacher teaches the first budget of the step alone, and that budget the others.
    """

    def __init__(self, teacher: Teacher | None, network: nn.Module, images: Tensor, handed_on: bool = False) -> None:
        self.teacher, self.network, self.images, self.handed_on = teacher, network, images, handed_on
        self.logits: Tensor | None = None

    def teaches(self, budget: Budget) -> bool:
        """Whether a budget learns from it: all do, but the dense network not from itself."""
        return self.teacher is not None and not (self.teacher is self_teacher and budget.is_dense)

    def __call__(self) -> Tensor:
        """Logits [B, classes], without gradient."""
        if self.logits is None:
            assert self.teacher is not None
            self.logits = self.teacher(self.network, self.images)
        return self.logits

    def hear(self, budget: Budget, logits: Tensor) -> None:
        """Take what a budget that has just learned says of the batch, where it teaches those after it."""
        if self.handed_on or (self.teacher is self_teacher and budget.is_dense):
            self.logits, self.handed_on = logits.detach(), False


class DenseTeacher:
    """A pretrained dense network in eval mode, which sees images as it was trained to see them.

    Args:
        network: any timm network with the student's classes.
        mean, std: normalisation of the images that it will be given, a number a channel.
        compile: whether it looks at them through torch.compile.
        own: mean and std of the images that it was trained on; None: as timm has it for its name.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], compile: bool = False,
                 own: tuple[list[float], list[float]] | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        cfg = getattr(network, "pretrained_cfg", None) or {}
        device = next(network.parameters()).device
        self.look = compiled_teacher(self.network, device) if compile else self.network
        own = own or (cfg.get("mean") or mean, cfg.get("std") or std)
        if len(own[0]) != len(mean):  # the teacher's first layer was made for other channels than it was trained on
            own = (mean, std)
        own_mean, own_std, mean, std = (torch.tensor(v, device=device) for v in (*own, mean, std))
        self.scale = (std / own_std)[:, None, None]
        self.shift = ((mean - own_mean) / own_std)[:, None, None]
        self.size = tuple(cfg["input_size"][1:]) if cfg.get("fixed_input_size") else None

    def __call__(self, student: nn.Module, images: Tensor) -> Tensor:
        """images: [B, 3, H, W] as the student sees them -> logits [B, classes]."""
        with torch.no_grad():
            images = images * self.scale + self.shift
            if self.size and tuple(images.shape[2:]) != self.size:
                images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
            return self.look(images)


class Teachers:
    """Several teachers as one, the mean of whose logits teaches.

    Args:
        members: each sees the images in its own normalisation.
    """

    def __init__(self, members: list[DenseTeacher]) -> None:
        self.members = members
        self.network = nn.ModuleList(member.network for member in members)

    def __call__(self, student: nn.Module, images: Tensor) -> Tensor:
        """images: [B, 3, H, W] as the student sees them -> logits [B, classes], float32."""
        return torch.stack([member(student, images).float() for member in self.members]).mean(dim=0)


def create_teacher(config: TeacherConfig, splits: Splits, student: str, device: torch.device,
                   layout: torch.memory_format = torch.contiguous_format, compile: bool = False,
                   notes: list[str] | None = None) -> Teacher | None:
    """The teacher that the config asks for, or None.

    Args:
        config: kind, name, weights, others.
        splits: for the number of classes and the images' normalisation.
        student: name of the student's model, the default of a checkpoint teacher's.
        device: where it runs.
        layout: of its weights; another one than the images' would be converted in every step.
        compile: whether a network of its own is compiled; the student's own dense path is what the student is.
        notes: of a student that has learnt from it already: takes what is otherwise refused, other names of classes.

    Raises:
        UserError: for an unknown model, weights that do not fit, or other classes than the data's.
    """
    if config.kind == "none":
        return None
    if config.kind == "self":
        return self_teacher
    asked = [(config.name, config.weights), *(teacher_parts(other) for other in config.others)]
    members = [_dense_teacher(name or student, weights, splits, device, layout, compile, notes)
               for name, weights in asked]
    return members[0] if len(members) == 1 else Teachers(members)


def _dense_teacher(name: str, weights: str | None, splits: Splits, device: torch.device, layout: torch.memory_format,
                   compile: bool, notes: list[str] | None) -> DenseTeacher:
    """One dense network with its own weights from a file, or timm's."""
    classes = len(splits.classes)
    arguments = with_channels({"num_classes": classes} if weights else {}, splits.channels)
    try:
        network = create_dense_model(name, pretrained=weights is None, weights=weights, section="teacher", **arguments)
    except UserError as error:
        raise UserError(f"teacher {name}: {error}") from error
    if network.num_classes != classes:
        raise UserError(f"teacher {name} has {network.num_classes} classes, the data {classes}"
                        f"{OTHER_CLASSES['teacher']}")
    own = None if weights is None else _trained_on(weights, splits, notes)
    return DenseTeacher(network.to(device, memory_format=layout), splits.mean, splits.std, compile, own)


def _trained_on(weights: str, splits: Splits, notes: list[str] | None
                ) -> tuple[list[float], list[float]] | None:
    """Mean and std of the images that a file's network was trained on; None where the file does not say it.

    Raises:
        UserError: for a file whose classes are others, or the data's in another order.
    """
    content = checkpoints.find_checkpoint(weights)
    if content is None:  # another script's file
        return None
    named, classes = content.get("classes") or splits.classes, splits.classes
    if list(named) != classes and sorted(named) == sorted(classes):
        raise UserError(f"the teacher {weights} has the data's classes in another order, and would teach wrong "
                        f"ones: {', '.join(named[:3])}, ..., where the data have {', '.join(classes[:3])}, ...")
    if list(named) != classes:
        said = (f"the teacher {weights} was trained for the classes {shortened(named)}, the data have "
                f"{shortened(classes)}")
        if notes is None:
            raise UserError(f"{said}: name the data's classes as the teacher's, if they are the same")
        notes.append(said)
    data = (content.get("config") or {}).get("data")
    if not isinstance(data, dict):
        return None
    own = normalisation(data.get("mean"), data.get("std"), splits.channels)
    if own != (splits.mean, splits.std):
        log.info("the teacher sees images in its own normalisation, mean %s and std %s", *own)
    return own
