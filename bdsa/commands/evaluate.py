"""The work of bdsa-evaluate: a checkpoint of ours or the authors' or a dense network, on the data asked for."""
from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from bdsa import distributed
from bdsa.budgets import DENSE, Budgets
from bdsa.commands.asked_data import as_seen, data_settings, labelled
from bdsa.commands.missing_confidence import lacks_confidence, measure_confidence
from bdsa.commands.missing_curves import lacks_curves, measure_curves
from bdsa.commands.missing_ranges import measure_ranges
from bdsa.commands.result_folders import evaluation_folder
from bdsa.config import loaded
from bdsa.config.commands import EvaluateConfig
from bdsa.config.data import for_network
from bdsa.config.settings import ModelConfig, TrainerConfig
from bdsa.data.datasets import Splits, create_splits, dataset_names, get_split
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.errors import UserError
from bdsa.models import checkpoints
from bdsa.models.factory import check_image_size, check_model_name, create_model, input_channels, with_channels
from bdsa.models.network import AdaptiveNetwork
from bdsa.ranks import is_main
from bdsa.report.progress import progress_bar
from bdsa.report.results_table import print_table
from bdsa.runs.files import check_writable, write_json
from bdsa.sparse import native
from bdsa.sparse.auto import WHOLE
from bdsa.sparse.execution import break_even, use_break_even
from bdsa.training.device import choose_device
from bdsa.training.evaluation import Evaluation, evaluate, evaluated_budgets
from bdsa.training.results import describe, draw
from bdsa.training.rounding import add_taken, in_float32, precision_lines
from bdsa.training.run_latency import add_latency, latency_line

EXECUTION = "execution.json"  # what "auto" found out, beside the results


def measure(config: EvaluateConfig, named: Collection[str] = ()) -> dict[str, Any]:
    """Evaluate, print the table, write results.json and pictures; return the results.

    Several processes share the images; rank 0 writes and prints.

    Args:
        config: the command's.
        named: the settings that the command line names, whatever their values are.

    Raises:
        UserError: for bad input, before any image is looked at.
    """
    distributed.start()
    device = distributed.together(lambda: choose_device(config.trainer))
    distributed.check_devices(device)
    name, network, splits, split, budgets, workers = distributed.together(lambda: _subject(config, named, device))
    dataset = splits.train_eval if split == "train" else get_split(splits, split)
    dataset.draw()
    dataset = limited(dataset, config.trainer.limit_eval_images)
    loader = eval_loader(dataset, config.trainer.eval_batch_size, workers, *distributed.shard())
    if config.precision == "int8" and not network.ranges:
        measure_ranges(network, splits, config, workers)
    network.execution, network.precision = config.execution, config.precision
    network.per_image = config.per_image
    reference = None if config.precision == "float32" else in_float32(network)
    folder = evaluation_folder(config, splits.name, split, named)
    if config.execution == "auto" and (found := _kept_execution(folder, len(network.adaptive_blocks()))):
        use_break_even(network, found)
    with progress_bar() as bar:
        task = bar.add_task(f"evaluating {name}", total=len(loader))
        evaluation = evaluate(network, loader, budgets, device, lambda: bar.advance(task), reference)
    results = describe(network, name, splits, split, evaluation)
    if config.per_image:
        results["per_image"] = True
    if config.cascade:
        results["cascade"] = True
    results["checkpoint"] = config.checkpoint or config.model.weights
    results["precision"] = config.precision
    if config.precision == "auto" and device.type == "cpu" and not config.cascade:
        add_taken(results["rows"], network)
    if is_main():
        if config.trainer.latency:
            add_latency(results, network, dataset, device, config.execution)
        _write(results, folder, network, dataset, splits, evaluation, device, config.trainer)
    return results


def _subject(config: EvaluateConfig, named: Collection[str], device: torch.device
             ) -> tuple[str, AdaptiveNetwork, Splits, str, list[float], int]:
    """What is measured: the network, on the device, and its name, the data, the split, the budgets, reading processes.

    Raises:
        UserError: for the first thing in the config that cannot be.
    """
    if config.precision in ("bfloat16", "int8") and device.type == "cpu" and (reason := native.unavailable()):
        raise UserError(f"precision={config.precision} needs the native kernels, and they are not here ({reason}): "
                        f"leave it out for float32")
    network, name, content, asked = None, config.model.name, None, config.budgets.targets
    if config.checkpoint is not None:
        if given := sorted(n for n in named if n.startswith("model.")):
            raise UserError(f"{given[0]} and checkpoint={config.checkpoint}, which says itself what its network is: "
                            f"give one")
        stored = checkpoints.open_network(config.checkpoint, config.published, asked)
        network, name, content = stored.network, stored.name, stored.content
        network.extrapolate, network.cascade = config.extrapolate, config.cascade
        if config.published is not None and asked is None:
            asked = list(network.budgets)  # the authors' code never trains the dense path: its row would say nothing
    else:
        check_model_name(name)
    if network is None:
        asked = [Budgets([DENSE]).require(budget) for budget in Budgets(asked or [DENSE])]
    missing = network is not None and lacks_curves(network, asked)
    unsure = network is not None and lacks_confidence(network, asked)
    if network is not None and not missing and not unsure:
        evaluated_budgets(network, asked)
    dense = checkpoints.find_checkpoint(config.model.weights) if network is None and config.model.weights else None
    data = data_settings(config.data, content, named, "held_out" if unsure else config.split)
    data = as_seen(data, dense, named)
    if data.name not in dataset_names():
        loaded.require(content, config.checkpoint)
    reads = config.model.args.get("in_chans") if network is None else input_channels(network)
    splits = create_splits(for_network(data, reads, name))
    split = config.split or splits.reported
    len(splits.train_eval if split == "train" else get_split(splits, split))  # raises where there are none
    if network is None:
        network = _dense_network(config.model, len(splits.classes), splits.channels)
    if config.checkpoint is not None:
        splits = labelled(splits, network, content, f"checkpoint {config.checkpoint}")
    elif dense is not None and dense.get("classes") is not None:
        splits = labelled(splits, network, dense, f"model.weights={config.model.weights}")
    check_image_size(network, name, splits.image_size)
    check_writable(evaluation_folder(config, splits.name, split, named))
    network.to(device)
    if missing:
        measure_curves(network, splits, config, data.workers)
    if unsure:
        measure_confidence(network, splits, config, data.workers)
    return name, network, splits, split, evaluated_budgets(network, asked), data.workers


def _kept_execution(folder: Path, blocks: int) -> dict[str, Any] | None:
    """What an evaluation before this one found out about the blocks; a damaged file is passed over and written anew."""
    path = folder / EXECUTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(densities, list) and len(densities) == blocks
               and all(isinstance(density, float) for density in densities) for densities in found["blocks"].values()) \
                and set(found.get("whole", {}).values()) <= set(WHOLE):
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        pass
    print(f"note: {path} is damaged and passed over: the faster way of each block is found anew")
    return None


def _write(results: dict[str, Any], folder: Path, network: AdaptiveNetwork, dataset: Dataset, splits: Splits,
           evaluation: Evaluation, device: torch.device, trainer: TrainerConfig) -> None:
    """Leave results and pictures in the folder, and print the table."""
    if network.execution == "auto" and (found := break_even(network)) is not None:
        write_json(folder / EXECUTION, found)
    write_json(folder / "results.json", results)
    if trainer.pictures:
        draw(network, dataset, splits, evaluation, folder / "pictures", trainer.pictures, trainer.eval_batch_size,
             device)
    print()
    print_table(results["rows"], dense_macs=results["dense_macs"], parameters=results["parameters"])
    print(f"{splits.name}, split {results['split']}")
    for line in precision_lines(results):
        print(line)
    if line := latency_line(results):
        print(line)
    for note in splits.notes:
        print(f"note: {note}")
    print(f"  results    {folder / 'results.json'}"
          + (f"\n  pictures   {folder / 'pictures'}" if trainer.pictures else ""))


def _dense_network(model: ModelConfig, classes: int, channels: int) -> AdaptiveNetwork:
    """The dense network that the command line names, with its weights."""
    if model.weights is None and not model.pretrained:
        raise UserError(f"model={model.name} has no weights to evaluate: give model.weights=PATH or "
                        f"model.pretrained=true")
    return create_model(model.name, [DENSE], classes, model.pretrained, weights=model.weights,
                        **with_channels(model.args, channels))
