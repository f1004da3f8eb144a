"""Build what a run needs from its config, cheapest checks first: nothing slow starts on bad input."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from bdsa.budgets import Budgets
from bdsa.config.data import for_network
from bdsa.config.settings import TrainConfig
from bdsa.config.targets import read_targets
from bdsa.data.datasets import Splits, create_splits
from bdsa.data.loaders import EpochLoader, eval_loader, train_loader
from bdsa.data.subset import limited
from bdsa.distributed import shard, world
from bdsa.errors import UserError
from bdsa.method.awareness import check_metric
from bdsa.method.whole_batch import use_whole_batch
from bdsa.models.checkpoints import ModelSpec
from bdsa.models.factory import check_image_size, check_model_name, create_model, with_channels
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.start import match_classes, start_from
from bdsa.models.stated import check_arguments
from bdsa.training.compilation import check_compiler
from bdsa.training.optimization import check_optimizer
from bdsa.training.teachers import Teacher, create_teacher


@dataclass
class Assembly:
    """What the trainer trains with."""
    spec: ModelSpec
    network: AdaptiveNetwork
    splits: Splits
    loader: EpochLoader
    batches: int                        # that an epoch uses: the loader's, unless a dry run limits them
    budgets: Budgets
    targets: list[float] | None
    teacher: Teacher | None
    notes: list[str] = field(default_factory=list)  # of a run that goes on


def assemble(config: TrainConfig, device: torch.device, resumes: bool = False) -> Assembly:
    """Data, network, targets and teacher of a training run.

    Args:
        resumes: whether all weights will come from a checkpoint: then what the run began from is not needed any more.

    Raises:
        UserError: for the first thing in the config that cannot be.
    """
    budgets = Budgets(config.budgets.targets)
    check_model_name(config.model.name)
    check_optimizer(config.recipe)
    if config.trainer.compile:
        check_compiler(device)
    targets = None
    if config.awareness.metric != "none":
        if config.awareness.targets is None:
            raise UserError(f"awareness.metric={config.awareness.metric} needs awareness.targets: a CSV file, or "
                            f"imagenet or cifar10 for the published ones")
        targets = read_targets(config.awareness.targets, config.awareness.row or config.model.name, budgets)
        check_metric(config.awareness.metric, targets)
    if config.recipe.batch_size % world():
        raise UserError(f"recipe.batch_size={config.recipe.batch_size} is the batch of all {world()} processes,"
                        f" which cannot share it equally: make it a multiple of {world()}")
    splits = create_splits(for_network(config.data, config.model.args.get("in_chans"), "model.args.in_chans"))
    loader = train_loader(splits.train, config.recipe.batch_size // world(), config.data.workers,
                          config.trainer.seed, *shard())
    batches = min(len(loader), config.trainer.limit_train_batches or len(loader))
    recipe = config.recipe
    if batches < recipe.accumulation:
        raise UserError(f"recipe.accumulation={recipe.accumulation} is more than an epoch's {batches} batches of "
                        f"{recipe.batch_size} images: no update would be made; give {batches} or less")
    spec, network = create_network(config, budgets, splits, device, resumes)
    check_batch_norms(config, network)
    check_dropout(config, network)
    notes: list[str] = []
    teacher = create_teacher(config.teacher, splits, config.model.name, device, layout(config),
                             config.trainer.compile, notes if resumes else None)
    return Assembly(spec, network, splits, loader, batches, budgets, targets, teacher, notes)


def create_network(config: TrainConfig, budgets: Budgets, splits: Splits, device: torch.device, bare: bool = False
                   ) -> tuple[ModelSpec, AdaptiveNetwork]:
    """The network to train, as the config says but for the budgets, and what rebuilds it.

    Args:
        bare: without the weights that it begins from.
    """
    torch.manual_seed(config.trainer.seed)
    model = config.model
    check_arguments(model.name, model.args)  # a checkpoint with others could not be opened
    arguments = with_channels(model.args, splits.channels)
    spec = ModelSpec(model.name, len(splits.classes), budgets.plain(), model.norm_affine, arguments,
                     model.mask_norm, submanifold=model.submanifold)
    network = create_model(model.name, budgets, spec.num_classes, model.pretrained and not bare,
                           weights=None if bare else model.weights,
                           reset_head=model.reset_head, norm_affine=model.norm_affine, mask_norm=model.mask_norm,
                           mask_start=model.mask_start, submanifold=model.submanifold, **arguments, **drop_path(config))
    if model.weights is not None and not bare:
        match_classes(network, model.weights, splits.classes, model.reset_head)
    if model.start is not None and not bare:
        splits.notes += start_from(network, spec, model.start, splits.classes, model.reset_head,
                                   calibration_batches(config, splits))
    check_image_size(network, model.name, splits.image_size)
    if world() > 1:
        use_whole_batch(network, norms=config.trainer.sync_batch_norm)
    return spec, network.to(device, memory_format=layout(config))


def calibration_batches(config: TrainConfig, splits: Splits) -> Iterator[torch.Tensor]:
    """Some training images as inference sees them, in batches; nothing is read before they are asked for."""
    splits.train_eval.draw()
    few = limited(splits.train_eval, config.budgets.calibration_images)
    yield from (images for images, _ in eval_loader(few, config.trainer.eval_batch_size, config.data.workers))


def check_batch_norms(config: TrainConfig, network: AdaptiveNetwork) -> None:
    """Raise UserError where a batch norm would see one image at a time: its statistics would be that image's."""
    size = config.recipe.batch_size
    images = size if config.trainer.sync_batch_norm else size // world()
    if images == 1 and any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise UserError(f"recipe.batch_size={size} leaves one image to the batch norms of {config.model.name}, which "
                        f"need at least two: give recipe.batch_size={2 * size}, or a network with layer norms, such as "
                        f"convnext_tiny")


def check_dropout(config: TrainConfig, network: AdaptiveNetwork) -> None:
    """Raise UserError where several processes would draw one dropout: alike for the images of each."""
    drops = getattr(network, "drop_rate", 0) or any(isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p
                                                    for module in network.modules())
    if drops and world() > 1:
        raise UserError(f"{config.model.name} has dropout (model.args.drop_rate={config.model.args.get('drop_rate')}), "
                        f"which {world()} processes would draw alike: train it in one, or without; recipe.drop_path is "
                        f"drawn for the whole batch")


def layout(config: TrainConfig) -> torch.memory_format:
    """The memory layout of images, weights and teacher."""
    return torch.channels_last if config.trainer.channels_last else torch.contiguous_format


def drop_path(config: TrainConfig) -> dict[str, float]:
    """timm's argument for stochastic depth. It is not part of the network's form: it acts in training only."""
    if not config.recipe.drop_path:
        return {}
    if "drop_path_rate" in config.model.args:
        raise UserError(f"recipe.drop_path={config.recipe.drop_path} and model.args.drop_path_rate="
                        f"{config.model.args['drop_path_rate']} are the same setting: give one of them")
    return {"drop_path_rate": config.recipe.drop_path}
