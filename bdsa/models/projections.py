"""Give a CIFAR ResNet shortcut B, projections, in place of shortcut A, padding, without changing what it computes.

Where a block that begins a stage does not run, its shortcut is all that the next block sees: half of the channels of
shortcut A are zeros there. A projection may learn to fill them.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from bdsa.errors import UserError
from bdsa.models.checkpoints import ModelSpec
from bdsa.models.cifar_resnet import SubsamplePad
from bdsa.models.network import AdaptiveNetwork


def gains_projections(stated: ModelSpec, wanted: ModelSpec) -> bool:
    """Whether the wanted form is the stated one with shortcut B instead of A."""
    return (stated.name == wanted.name and stated.name.startswith("cifar_resnet")
            and wanted.args == {**stated.args, "shortcut": "B"} and stated.args.get("shortcut", "A") == "A")


@torch.no_grad()
def with_projections(network: AdaptiveNetwork, spec: ModelSpec, images: Iterable[Tensor]) -> AdaptiveNetwork:
    """The same function with shortcut B.

    A projection begins as the padding: it copies the old channels, and its batch norm undoes what it does to them, by
    the statistics that the images have at each budget. The new channels are random and begin with a weight of zero.

    Args:
        network: with shortcut A.
        spec: its form.
        images: batches [B, 3, H, W] as inference sees them.

    Raises:
        UserError: if the budgets share their norms' weights, which cannot undo the statistics of each.
    """
    if spec.norm_affine != "separate" and network.budgets.adaptive:
        raise UserError(f"shortcut=B cannot begin from a network of shortcut A with model.norm_affine="
                        f"{spec.norm_affine}: a projection's norm is fitted to each budget, which takes separate")
    projected = replace(spec, args={**spec.args, "shortcut": "B"}).build()
    projected.load_state_dict({**projected.state_dict(), **network.state_dict()})
    network.eval()
    pads = {name: module for name, module in network.named_modules() if isinstance(module, SubsamplePad)}
    convs = {name: projected.get_submodule(name)[0] for name in pads}  # type: ignore[index]
    kept = {name: slice(pad.padding[4], conv.out_channels - pad.padding[5])
            for (name, pad), conv in zip(pads.items(), convs.values())}
    for name, conv in convs.items():
        conv.weight[kept[name]] = torch.eye(conv.in_channels)[:, :, None, None]
    batches = list(images)
    for budget in (None, *network.budgets.adaptive):
        for name, (mean, variance) in _statistics(network, pads, convs, batches, budget).items():
            norm = projected.get_submodule(name)[1]  # type: ignore[index]
            _undo(norm if budget is None else norm.per_budget[budget.name], mean, variance, kept[name])
    return projected


def _statistics(network: AdaptiveNetwork, pads: dict[str, SubsamplePad], convs: dict[str, nn.Conv2d],
                batches: list[Tensor], budget: float | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance [C'] of what each projection gives at a budget, or densely."""
    sums = {name: torch.zeros(3, conv.out_channels, dtype=torch.float64) for name, conv in convs.items()}

    def add(name: str, x: Tensor) -> None:
        y = convs[name](x).double()
        sums[name] += torch.stack([torch.full((y.shape[1],), float(y[:, 0].numel())), y.sum((0, 2, 3)),
                                   y.square().sum((0, 2, 3))])

    hooks = [pad.register_forward_pre_hook(lambda _, inputs, name=name: add(name, inputs[0]))
             for name, pad in pads.items()]
    try:
        for batch in batches:
            network(batch, budget=1.0 if budget is None else budget)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        found[name] = (mean.float(), (squares / count - mean.square()).clamp(min=0).float())
    return found


def _undo(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, kept: slice) -> None:
    """Let a norm give what it reads in the channels that are kept, and zeros in the others."""
    norm.running_mean.copy_(mean)  # type: ignore[union-attr]
    norm.running_var.copy_(variance)  # type: ignore[union-attr]
    norm.weight.zero_()
    norm.bias.zero_()
    norm.weight[kept] = (variance[kept] + norm.eps).sqrt()
    norm.bias[kept] = mean[kept]
