"""Build networks by name: timm's and ours, dense or adaptive."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import timm
from timm.models import is_model, split_model_name_tag
from torch import nn

import bdsa.models.cifar_resnet  # noqa: F401  (registers the CIFAR ResNets with timm)
from bdsa.budgets import Budgets
from bdsa.config.image_size import ImageSize, height_width, in_words
from bdsa.errors import UserError, unknown
from bdsa.models.feature_network import FeatureNetwork
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.registration import OWN
from bdsa.models.surgery import adapt
from bdsa.models.weights import load_dense_weights

ADAPTABLE_MODULES = ("resnet", "convnext", "cifar_resnet")


def adaptable_models() -> list[str]:
    """Names of the registered networks whose family has an adaptive form."""
    return sorted([*OWN, *(n for m in ADAPTABLE_MODULES for n in timm.list_models(module=m))])


def check_model_name(name: str, adaptive: bool = True) -> None:
    """Raise UserError with the nearest spelling if `name` is not a registered network."""
    base, tag = split_model_name_tag(name)
    if not is_model(base):
        raise unknown("model", name, adaptable_models() if adaptive else timm.list_models())
    tags = [t.split(".", 1)[1] for t in timm.list_pretrained(f"{base}.*")]
    if tag and tags and tag not in tags:
        raise unknown(f"pretrained tag of {base}", tag, tags)


def create_dense_model(name: str, num_classes: int | None = None, pretrained: bool = False,
                       weights: str | Path | None = None, reset_head: bool = False, section: str = "model",
                       **kwargs: Any) -> nn.Module:
    """A timm network with complete weights: from the hub (`pretrained`), a local file (`weights`) or fresh.

    Raises:
        UserError: for an unknown name, an argument that the network does not take, weights that
            cannot be had or that do not fit completely.
    """
    check_model_name(name, adaptive=False)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    try:
        model = timm.create_model(name, pretrained=pretrained and weights is None, **kwargs)
    except UserError:
        raise
    except TypeError as error:
        raise UserError(f"model {name}: {error}") from error
    except Exception as error:  # the hub client has no common base for "no network" and "no such file"
        if not pretrained:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the pretrained weights of {name} cannot be had ({reason}): give a local file with "
                        f"{section}.weights=PATH") from error
    if weights is not None:
        load_dense_weights(model, weights, reset_head, section)
    return model


@overload
def create_model(name: str, budgets: Iterable[float] = ..., num_classes: int | None = ..., pretrained: bool = ..., *,
                 features_only: Literal[True], **arguments: Any) -> FeatureNetwork: ...


@overload
def create_model(name: str, budgets: Iterable[float] = ..., num_classes: int | None = ..., pretrained: bool = ..., *,
                 weights: str | Path | None = ..., **arguments: Any) -> AdaptiveNetwork: ...


def create_model(name: str, budgets: Iterable[float] = (0.3, 0.5, 0.7), num_classes: int | None = None,
                 pretrained: bool = False, *, weights: str | Path | None = None, reset_head: bool = False,
                 norm_affine: str = "separate", mask_norm: str = "none", mask_start: str = "random",
                 submanifold: bool = False, features_only: bool = False,
                 out_indices: Sequence[int] | int | None = None, **kwargs: Any) -> AdaptiveNetwork | FeatureNetwork:
    """An adaptive network: `model(x, budget=0.5)` gives logits, `budget=1.0` is the dense network.

    Args:
        name: a timm ResNet (resnet18 ... resnet152, resnext, wide) or ConvNeXt (v1, v2), with or
            without a pretrained tag (`resnet50.tv_in1k`), or `cifar_resnet20` (32, 44, 56, 110).
        budgets: fractions of the conditional MACs in (0, 1]; any number of them.
        num_classes: classes; None keeps the network's own number.
        pretrained: load timm's pretrained weights; every budget's norms start from them.
        weights: a local file in place of the download.
        reset_head: with `weights` of another number of classes, start with a new classifier.
        norm_affine: "separate" or "shared" weight and bias of the norms (statistics are always
            separate).
        mask_norm: "batch" normalises the mask units' logits, "none" is the published unit.
        mask_start: "activity" starts the mask units where a block's input is strong, "random" anywhere.
        submanifold: compute a block's first layer at its mask alone, not around it too; see `bdsa.adapt`.
        features_only: give feature maps in place of logits (`bdsa.models.feature_network.FeatureNetwork`).
        out_indices: of which stages; None: all, negative: from the last.
        kwargs: passed to timm, such as `drop_path_rate=0.1`, or `output_stride=8` for dilated convolutions.

    Raises:
        UserError: for bad budgets, an unknown name, a network that cannot be adapted, or weights
            that do not fit completely.
    """
    checked = budgets if isinstance(budgets, Budgets) else Budgets(budgets)
    check_model_name(name)
    if out_indices is not None and not features_only:
        raise UserError(f"out_indices={out_indices} needs features_only=True")
    if kwargs.get("output_stride", 32) not in (8, 16, 32):
        raise UserError(f"output_stride={kwargs['output_stride']} is none of 8, 16 and 32")
    if features_only and weights is None and not pretrained:
        num_classes = 0
    model = create_dense_model(name, num_classes, pretrained, weights, reset_head, **kwargs)
    adapt(model, checked, norm_affine, name, mask_norm, mask_start, submanifold)
    assert isinstance(model, AdaptiveNetwork)
    model.made_with = {"name": name, "args": kwargs}
    if features_only:
        model.reset_classifier(0)  # type: ignore[operator]
        return FeatureNetwork(model, out_indices)
    return model


def input_channels(network: nn.Module) -> int:
    """Channels of the images that a network reads."""
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels


def with_channels(arguments: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """A network's arguments with `in_chans`, where images are not in colour and they do not say it."""
    return dict(arguments) if channels == 3 else {"in_chans": channels, **arguments}


def check_image_size(network: AdaptiveNetwork, name: str, size: ImageSize) -> None:
    """Raise UserError if images of this side, or [height, width], leave nothing for the network's last map."""
    stride = network.feature_info[-1]["reduction"]
    if min(height_width(size)) < stride:
        raise UserError(f"image size {in_words(size)} is too small for {name}, which reduces its input {stride} times: "
                        f"use data.image_size={stride} or more")
