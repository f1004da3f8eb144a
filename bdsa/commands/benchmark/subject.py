"""What bdsa-benchmark what=latency measures: the network, its budgets and its images."""
from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bdsa.budgets import Budget, Budgets
from bdsa.commands.asked_data import data_settings
from bdsa.config import loaded
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.data import for_network
from bdsa.config.image_size import height_width
from bdsa.config.settings import DataConfig
from bdsa.data.datasets import create_splits, dataset_names, get_split
from bdsa.data.subset import limited
from bdsa.errors import UserError
from bdsa.models import checkpoints
from bdsa.models.factory import check_image_size, create_model, input_channels
from bdsa.models.network import AdaptiveNetwork
from bdsa.training.evaluation import evaluated_budgets

CALIBRATION = 128  # training images, at least, that a quantisation sees


@dataclass
class Subject:
    """A network in eval mode, channels-last, and images [N, 3, H, W] to measure it on.

    Attributes:
        source: what the images are: "synthetic", or data set and split.
        calibration: other images like them, [M, 3, H, W], for quantisation: training images where there are some.
    """
    network: AdaptiveNetwork
    name: str
    budgets: list[Budget]
    images: Tensor
    source: str
    calibration: Tensor


def find_subject(config: BenchmarkConfig, named: frozenset[str], count: int) -> Subject:
    """Build or load the network and get its images.

    Args:
        config: all settings.
        named: the settings that the command line names.
        count: images that are wanted. Of a smaller data set some are taken again.

    Raises:
        UserError: for the first thing in the settings that cannot be.
    """
    content = None
    if config.latency.checkpoint is None:
        network, name = _fresh_or_given(config), config.model.name
        budgets = evaluated_budgets(network, config.budgets.targets)
    else:
        network, name, content = _trained(config, named)
        budgets = evaluated_budgets(network, config.budgets.targets if _names(named, "budgets") else None)
    if config.latency.asked_masks == "model":
        images, source, calibration = _test_images(config, named, content, network, name, count)
    else:
        images, source = _noise(config, content, network, name, 2 * count), "synthetic"
        images, calibration = images[:count], images[count:]
    return Subject(network.eval().to(memory_format=torch.channels_last), name, budgets, images, source, calibration)


def _names(named: frozenset[str], group: str) -> bool:
    return any(n == group or n.startswith(f"{group}.") for n in named)


def _fresh_or_given(config: BenchmarkConfig) -> AdaptiveNetwork:
    """The network that model= names, with weights that are given or fresh ones."""
    model = config.model
    if model.start is not None:
        raise UserError(f"model.start={model.start} is where a training goes on: give latency.checkpoint={model.start}")
    torch.manual_seed(config.trainer.seed)
    network = create_model(model.name, Budgets(config.budgets.targets), None, model.pretrained, weights=model.weights,
                           reset_head=model.reset_head, norm_affine=model.norm_affine, mask_norm=model.mask_norm,
                           submanifold=model.submanifold, **model.args)
    if not model.pretrained and model.weights is None:
        wake(network)
    return network


@torch.no_grad()
def wake(network: nn.Module) -> None:
    """Let the residual branches of fresh weights count: their last gains start at zero, layer scales at 1e-6.

    With these an engine could leave a branch out and still give the same logits.
    """
    for name, gain in network.named_parameters():
        if gain.ndim == 1 and not name.endswith("bias") and float(gain.abs().max()) < 1e-3:
            gain.fill_(0.25)


def _trained(config: BenchmarkConfig, named: frozenset[str]) -> tuple[AdaptiveNetwork, str, dict]:
    """The checkpoint's network, name and content."""
    path = config.latency.checkpoint
    stored = checkpoints.open_network(path, advice=f"bdsa-benchmark takes no other as latency.checkpoint; for a dense "
                                                   f"network's weights give model=NAME model.weights={path}")
    if named & {"model", "model.name"} and config.model.name != stored.name:
        raise UserError(f"model={config.model.name} and latency.checkpoint={path}, which holds a {stored.name}: give "
                        f"one of them")
    if given := sorted(n for n in named - {"model.name"} if n.startswith("model.")):
        raise UserError(f"{given[0]} and latency.checkpoint={path}, which says itself what its network is: give one")
    return stored.network, stored.name, stored.content


def _test_images(config: BenchmarkConfig, named: frozenset[str], content: dict, network: AdaptiveNetwork, name: str,
                 count: int) -> tuple[Tensor, str, Tensor]:
    """Images of the reported split of the network's data, what to call them, and training images if int8 needs them."""
    asked = config.data
    if "data" not in named:  # the default data set of bdsa-benchmark is not what was asked for
        chosen = {f.name: getattr(asked, f.name) for f in fields(DataConfig) if f"data.{f.name}" in named}
        asked = DataConfig(**{"name": "", **chosen})
    data = data_settings(asked, content, named)
    if data.name not in dataset_names():
        loaded.require(content, config.latency.checkpoint)
    splits = create_splits(for_network(data, input_channels(network), name))
    if len(splits.classes) != network.num_classes:
        raise UserError(f"checkpoint {config.latency.checkpoint} has {network.num_classes} classes, the data "
                        f"{len(splits.classes)}")
    check_image_size(network, name, splits.image_size)
    dataset = get_split(splits, splits.reported)
    images = _first(dataset, count)
    calibration = _first(splits.train_eval, max(count, CALIBRATION)) if config.latency.quantises else images[:0]
    return images, f"{splits.name}-{splits.reported}", calibration


def _first(dataset: Dataset, count: int) -> Tensor:
    """The first images [count, C, H, W]; of a smaller data set some are taken again."""
    few = limited(dataset, count)
    images = torch.stack([few[i][0] for i in range(len(few))])
    return images[torch.arange(count) % len(few)]


def _noise(config: BenchmarkConfig, content: dict | None, network: AdaptiveNetwork, name: str, count: int) -> Tensor:
    """Random images of the size asked for, the trained or the model's own."""
    size = config.latency.image_size
    if size is None and content is not None:
        size = (content.get("results") or {}).get("image_size")
    if size is None:
        size = network.pretrained_cfg["input_size"][-1]
    check_image_size(network, name, size)
    generator = torch.Generator().manual_seed(config.trainer.seed)
    return torch.randn(count, input_channels(network), *height_width(size), generator=generator)
