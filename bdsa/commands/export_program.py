"""A checkpoint's sparse network for other programs: written, compared with Python on real images, and timed."""
from __future__ import annotations

import copy
from collections.abc import Collection
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.commands.asked_data import data_settings, labelled
from bdsa.commands.benchmark.graph_engines import exported, onnx_session
from bdsa.commands.hosts import HOSTS, Runner
from bdsa.config import loaded
from bdsa.config.commands import ExportConfig
from bdsa.config.data import for_network
from bdsa.data.datasets import create_splits, dataset_names, get_split
from bdsa.data.subset import limited
from bdsa.errors import UserError
from bdsa.machine import multiplies_bfloat16, processor
from bdsa.models.dense_copy import dense_copy, fold_batch_norms
from bdsa.models.factory import check_image_size, input_channels
from bdsa.models.network import AdaptiveNetwork
from bdsa.report.terminal import counted
from bdsa.sparse.latency import Engine, network_engine, time_engines
from bdsa.sparse.program import Program, program_of

APART = 1e-4  # of the logits' spread: further is no rounding
BATCH, OF_CASCADE = 16, 256  # images that are timed one by one
ROUNDS, SECONDS = 7, 0.02
WITHIN = 1.02  # of the dense network's time: noise


def export_program(config: ExportConfig, network: AdaptiveNetwork, content: dict[str, Any], path: Path,
                   named: Collection[str]) -> None:
    """Write the network in the config's format, check the file against Python, and print size and speed.

    Raises:
        UserError: for what cannot be exported, and for a file whose logits are others, which is removed.
    """
    host = HOSTS[config.format]
    host.check()
    images = _images(config, network, content, named)
    network.cascade = config.cascade
    program = program_of(network.eval(), config.budgets.targets, config.precision, config.between)
    host.write(program, images[:1].repeat(2, 1, 1, 1), path, config.per_image)
    run = host.load(path)
    try:
        apart = _compare(program, network, images, run, config.per_image)
    except UserError:
        path.unlink()
        raise
    library = host.put_library(path.parent)
    names = ", ".join(f"{b:g}" for b in program.budgets)
    names += ", any from {:g} to {:g}".format(*program.between) if program.between else ""
    names += ", as a mean or of each image" if config.per_image else ""
    names += ", as a mean by a second look at unsure images" if program.cascade else ""
    print(f"{content['model']['name']} for {host.program_name}, budgets {names}, {program.precision}\n"
          f"logits as in Python on {counted(len(images), 'image')}: at most {apart:.1e} of their spread away\n")
    _print_speed(config.format, program, network, images, run, config.per_image)
    print(f"\n  {path}  ({path.stat().st_size / 1e6:.1f} MB)\n  {library}  ({library.stat().st_size / 1e6:.1f} MB), "
          f"which {host.program_name} loads first")


def _images(config: ExportConfig, network: AdaptiveNetwork, content: dict[str, Any], named: Collection[str]) -> Tensor:
    """Images of the data that the network is for, [N, C, H, W]."""
    data = data_settings(config.data, content, named)
    if data.name not in dataset_names():
        loaded.require(content, config.checkpoint)
    splits = labelled(create_splits(for_network(data, input_channels(network), content["model"]["name"])), network,
                      content, f"checkpoint {config.checkpoint}")
    check_image_size(network, content["model"]["name"], splits.image_size)
    dataset = limited(get_split(splits, splits.reported), config.images)
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


def _compare(program: Program, network: AdaptiveNetwork, images: Tensor, run: Runner, per_image: bool) -> float:
    """The largest difference from Python's sparse execution, as a share of its logits' spread.

    Args:
        per_image: whether the file takes that, too.

    Raises:
        UserError: where it is more than rounding.
    """
    network.execution, network.precision, worst = "sparse", program.precision, 0.0
    middle = [round(sum(program.between) / 2, 3)] if program.between else []
    with torch.inference_mode():
        for budget, exact in product((*program.budgets, *middle), ([False], [True]) if per_image else ([],)):
            expected = torch.cat([network(part, budget=budget, per_image=any(exact)) for part in images.split(BATCH)])
            parts = (images[:1], *images[1:].split(BATCH))
            found = torch.cat([run(part, budget, *exact) for part in parts if len(part)])
            apart = ((found - expected).abs().max() / (expected.max() - expected.min())).item()
            if not apart <= APART:
                raise UserError(f"the exported network's logits at budget {budget:g}{' of each image' * any(exact)} "
                                f"are {apart:.1e} of their spread away from Python's: the file is removed")
            worst = max(worst, apart)
    return worst


def _print_speed(form: str, program: Program, network: AdaptiveNetwork, images: Tensor, run: Runner,
                 per_image: bool = False) -> None:
    """Milliseconds of one image at each budget beside Python's and the dense network's in the same host."""
    inputs = [image[None] for image in images[:OF_CASCADE if program.cascade else BATCH]]
    engines: dict[str, Engine] = {}
    for budget in program.budgets:
        exact = [False] if per_image else []
        engines[f"{budget:g}"] = lambda number, budget=budget, exact=exact: run(inputs[number], budget, *exact)
        if per_image:
            engines[f"{budget:g} of each image"] = lambda number, budget=budget: run(inputs[number], budget, True)
        engines[f"{budget:g} in Python"] = network_engine(network, inputs, budget, "sparse")
    dense = dense_copy(network)
    if form == "onnx":
        with exported(dense, inputs[0]) as path:
            dense_run = onnx_session(path, inputs)
    else:
        dense_run = _folded(dense, inputs)
    rivals = {"dense": dense_run}
    if form != "onnx" and program.precision != "float32" and multiplies_bfloat16():
        rivals["dense in bfloat16"] = _folded(dense, inputs, torch.bfloat16)
    ms = {name: median(each) for name, each in
          time_engines({**engines, **rivals}, len(inputs), ROUNDS, SECONDS,
                       whole=engines if program.cascade else ()).items()}
    best = min(rivals, key=ms.__getitem__)
    ms["dense"] = ms[best]
    host = "ONNX Runtime" if form == "onnx" else "PyTorch"
    host += " in bfloat16" if best != "dense" else " in float32" if program.precision != "float32" else ""
    of = f", the mean of {len(inputs)}" if program.cascade else ""
    print(f"one image of {images.shape[2]}x{images.shape[3]}{of}, {counted(torch.get_num_threads(), 'thread')}, "
          f"{processor()}; the dense network in {host}: {ms['dense']:.2f} ms\n\n"
          f"budget | exported | in Python | speedup over dense{' | of each image' * per_image}\n"
          f"------ | -------- | --------- | ------------------{' | -------------' * per_image}")
    for name in (f"{budget:g}" for budget in program.budgets):
        exactly = f"{'':14} | {ms[f'{name} of each image']:10.2f} ms" if per_image else ""
        print(f"{name:>6} | {ms[name]:5.2f} ms | {ms[f'{name} in Python']:6.2f} ms | {ms['dense'] / ms[name]:.2f}"
              f"{exactly}")
    for name in (f"{budget:g}" for budget in program.budgets):
        if ms[name] > WITHIN * ms["dense"]:
            print(f"note: at budget {name} the exported network is slower than the dense one: {ms[name]:.2f} ms "
                  f"against {ms['dense']:.2f} ms")


def _folded(dense: nn.Module, inputs: list[Tensor], dtype: torch.dtype = torch.float32) -> Engine:
    """PyTorch's dense network with its batch norms folded, channels last."""
    network = copy.deepcopy(fold_batch_norms(dense) or dense).to(dtype, memory_format=torch.channels_last)
    inputs = [x.to(dtype, memory_format=torch.channels_last) for x in inputs]
    return lambda number: network(inputs[number])
