"""The budget and distillation terms of the loss (docs/method.md, section 6), all in float32."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def network_budget_loss(conditional_fraction: Tensor, budget: float) -> Tensor:
    """(F - b)^2 with F the mean conditional fraction of the batch.

    Args:
        conditional_fraction: [B], each image's share of the conditional MACs that ran.
        budget: b in (0, 1].
    """
    return (conditional_fraction.mean() - budget).square().float()


def block_bounds(budget: float, progress: float, anneal: float = 0.33) -> tuple[float, float]:
    """Lower and upper bound of every block's fraction: tied to b at first, free after `anneal`.

    Args:
        budget: b in (0, 1].
        progress: share of the training that is done, 0..1.
        anneal: share of the training after which blocks are free.
    """
    p = math.cos(math.pi / 2 * min(max(progress / anneal, 0.0), 1.0)) ** 2
    return p * budget, 1.0 - p * (1.0 - budget)


def block_budget_loss(block_fractions: Tensor, lower: float, upper: float) -> Tensor:
    """Mean over blocks of max(0, f - upper)^2 + max(0, lower - f)^2.

    Args:
        block_fractions: [B, blocks], each image's and block's share of its MACs that ran.
        lower, upper: the bounds from `block_bounds`.
    """
    f = block_fractions.mean(dim=0)  # [blocks]
    return (F.relu(f - upper).square() + F.relu(lower - f).square()).mean().float()


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), batch mean.

    Args:
        student, teacher: logits [B, classes]; the teacher's carry no gradient.
        temperature: T > 0.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature ** 2


def decoupled_distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float,
                                beta: float) -> Tensor:
    """T^2 * (KL of label against all others + beta * KL among the others), batch mean (Zhao et al., CVPR 2022).

    With beta = 1 - q of each image, the teacher's probability of the others, it would be `distillation_loss`: there a
    teacher that is sure of an image says next to nothing of its other classes.

    Args:
        student, teacher: logits [B, classes]; the teacher's carry no gradient.
        labels: int64 [B].
        temperature: T > 0.
        beta: weight of the classes beside the label.
    """
    label = labels[:, None] == torch.arange(student.shape[1], device=labels.device)  # no index waits for the device
    ours, theirs = student.float() / temperature, teacher.detach().float() / temperature
    kl = [F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) for log_p, log_q in zip(
        _label_and_others(ours, label), _label_and_others(theirs, label))]
    return (kl[0] + beta * kl[1]) * temperature ** 2


def _label_and_others(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the label and of all others together, [B, 2]; and among the others, zero at the label."""
    log_p, others = logits.log_softmax(dim=1), logits.masked_fill(label, -math.inf)
    together = log_p.masked_fill(label, -math.inf).logsumexp(dim=1)
    return (torch.stack([log_p.masked_fill(~label, 0).sum(dim=1), together], dim=1),
            others.log_softmax(dim=1).masked_fill(label, 0))
