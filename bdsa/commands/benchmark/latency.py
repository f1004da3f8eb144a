"""bdsa-benchmark what=latency: an adaptive network at its budgets against the fastest dense engines."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bdsa.commands.benchmark import gpu_latency
from bdsa.commands.benchmark.break_even import MASKED, break_evens, probes
from bdsa.commands.benchmark.engines import dense_engines, missing
from bdsa.commands.benchmark.folder import benchmark_folder, check_alone
from bdsa.commands.benchmark.latency_report import report, speedup_picture
from bdsa.commands.benchmark.own_engine import Masks, OwnEngine, Reference, at_precisions, own_engine, timed_row
from bdsa.commands.benchmark.profile import write_profiles
from bdsa.commands.benchmark.quantised import int8_engines, lacking_int8
from bdsa.commands.benchmark.subject import Subject, find_subject
from bdsa.commands.benchmark.synthetic_masks import block_shapes, synthetic_masks
from bdsa.commands.benchmark.ways import against_each_way, each_way
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.image_size import as_set
from bdsa.errors import UserError
from bdsa.machine import multiplies_bfloat16, processor
from bdsa.models.dense_copy import dense_copy
from bdsa.models.network import AdaptiveNetwork
from bdsa.report.progress import progress_bar
from bdsa.runs.environment import environment, versions
from bdsa.runs.files import check_writable, write_json
from bdsa.sparse.latency import time_engines
from bdsa.training.device import choose_device

INPUTS = 4  # that take turns, at least: an engine must not get used to one
ENGINES = ("torch", "onnx", "onnxruntime", "openvino", "nncf")  # whose versions the figures depend on
IMAGES = 16  # of all inputs together, at least: the cost of a network's own masks depends on the image


def benchmark(config: BenchmarkConfig, named: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Measure every batch size, print its table and write its benchmark.json; return their contents.

    The folder holds benchmark.json and speedup.png of the batch size; of several, each has a folder batch<N> in it.

    Args:
        config: all settings.
        named: the settings that the command line names: with a checkpoint, the others are the checkpoint's.

    Raises:
        UserError: for bad input, before anything is written.
    """
    check_alone()
    if on_gpu(config):
        return gpu_latency.benchmark(config, named)
    lacking = [reason for reason in map(missing, config.latency.peers) if reason]
    peers = [peer for peer in config.latency.peers if missing(peer) is None]
    if not peers:
        raise UserError(f"no dense engine is left to compare with: {'; '.join(lacking)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    sizes = config.latency.batch_sizes
    subject = find_subject(config, named, max(size * inputs_of(size) for size in sizes))
    home = benchmark_folder(config, subject.source, subject.name, "cpu")
    check_writable(home)
    # Masked blocks have no int8: beside bfloat16 its network would be measured twice.
    small = config.latency.quantises and (config.latency.execution != MASKED or config.latency.precision == "int8")
    networks = at_precisions(subject.network, config.latency.precision, subject.calibration if small else None)
    if config.latency.quantises:
        lacking += lacking_int8()
    results = []
    for size in sizes:
        folder = home / f"batch{size}" if len(sizes) > 1 else home
        inputs, masks = batches(subject, size, config)
        result = {**measured(config, subject, networks, peers, inputs, masks), "missing": lacking, "load_before": load,
                  "cores": os.cpu_count(), "environment": environment("cpu"), "settings": asdict(config)}
        write_json(folder / "benchmark.json", result)
        speedup_picture(result, folder / "speedup.png")
        report(result, folder)
        if config.latency.profile:
            write_profiles(networks, inputs, masks, result, folder)
        results.append(result)
    return results


def measured(config: BenchmarkConfig, subject: Subject, networks: Mapping[str, AdaptiveNetwork],
             peers: Sequence[str], inputs: Sequence[Tensor], masks: Mapping[float, Masks]) -> dict[str, Any]:
    """Time the dense engines and every budget on inputs of one batch size: what benchmark.json says of it.

    Args:
        networks: the subject's network by the precision asked for.
        peers: the dense engines.
        inputs, masks: see `batches`.
    """
    latency = config.latency
    size, dense = len(inputs[0]), dense_copy(subject.network)
    with progress_bar() as bar:
        task = bar.add_task(f"batch {size}: building", total=None)
        engines = dense_engines(peers, dense, inputs, multiplies_bfloat16())
        if latency.quantises:
            engines += int8_engines(dense, inputs, subject.calibration)
        if not any(engine.precision != "int8" for engine in engines):
            raise UserError(f"latency.peers={[*latency.peers]} leaves no dense engine to compare with, because "
                            f"{subject.name} has no batch norm to fold: add eager")
        own = own_engines(config, subject, networks, inputs, masks)
        probed = probes(networks, subject.budgets, latency.execution, inputs, config.trainer.seed, latency.blob) \
            if latency.break_even and latency.execution != MASKED else []
        ways = each_way(networks, subject.budgets, inputs, masks) if latency.execution == "auto" else []
        runs = {**{engine.title: engine.run for engine in engines},
                **{each.key: each.run for each in [*own, *probed, *ways]}}
        bar.update(task, description=f"batch {size}", total=len(runs) * (latency.rounds + 1))
        ms = time_engines(runs, len(inputs), latency.rounds, latency.seconds, lambda: bar.advance(task))
    rivals = [{"engine": engine.name, "precision": engine.precision, "way": engine.way, "title": engine.title,
               "ms": median(ms[engine.title]), "logits_apart": engine.logits_apart, "rounds_ms": ms[engine.title]}
              for engine in engines]
    fastest = fastest_by_precision(rivals)
    rows = [timed_row(each.row, ms[each.key], fastest) for each in own]
    between = [{**each.row, "ms": median(ms[each.key])} for each in probed]
    alone = [{**each.row, "rounds_ms": ms[each.key]} for each in ways]
    return {"what": config.what, "model": subject.name, "batch_size": size, "threads": torch.get_num_threads(),
            "processor": processor(), "image_size": as_set(inputs[0].shape[2:]), "masks": latency.asked_masks,
            "images": subject.source, "execution": latency.execution, "peers": rivals, "fastest": fastest,
            "rows": rows, "probes": between, "break_even": break_evens(rows, between, fastest) if between else [],
            "ways": against_each_way(rows, alone), "rounds": latency.rounds, "seed": config.trainer.seed,
            "versions": versions(ENGINES)}


def fastest_by_precision(rivals: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fastest dense engine of each precision, and under "any" that of all float precisions."""
    def fastest(among: list[dict[str, Any]]) -> dict[str, Any]:
        found = min(among, key=lambda rival: rival["ms"])
        return {key: found[key] for key in ("engine", "precision", "title", "ms")}

    precisions = dict.fromkeys(rival["precision"] for rival in rivals)
    return {"any": fastest([rival for rival in rivals if rival["precision"] != "int8"]),
            **{precision: fastest([r for r in rivals if r["precision"] == precision]) for precision in precisions}}


def own_engines(config: BenchmarkConfig, subject: Subject, networks: Mapping[str, AdaptiveNetwork],
                inputs: Sequence[Tensor], masks: Mapping[float, Masks]) -> list[OwnEngine]:
    """An engine a precision and budget; the arguments are those of `measured`."""
    references = {b: Reference.of(subject.network, b, inputs, masks.get(b)) for b in subject.budgets}
    return [own_engine(config, network, precision, budget, inputs, masks.get(budget), references[budget])
            for precision, network in networks.items() for budget in subject.budgets]


def on_gpu(config: BenchmarkConfig) -> bool:
    """Whether a GPU is measured, which must be asked for by name.

    Raises:
        UserError: for one that PyTorch cannot use.
    """
    return choose_device(config.trainer).type != "cpu" if config.trainer.device != "auto" else False


def inputs_of(size: int) -> int:
    """How many inputs of a batch size take turns."""
    return max(INPUTS, -(-IMAGES // size))


def batches(subject: Subject, size: int, config: BenchmarkConfig
            ) -> tuple[list[Tensor], dict[float, list[list[Tensor]]]]:
    """The inputs [size, 3, H, W] that take turns, and by budget a list of masks for each of them.

    A budget has no masks where the network's own are used, nor has the dense one.
    """
    images = subject.images[:size * inputs_of(size)].contiguous(memory_format=torch.channels_last)
    inputs = list(images.split(size))
    if config.latency.asked_masks == "model":
        return inputs, {}
    shapes = block_shapes(subject.network, tuple(images.shape[2:]))
    masks = {}
    for budget in (b for b in subject.budgets if not b.is_dense):
        whole = synthetic_masks(shapes, budget, len(images), config.trainer.seed, config.latency.blob)
        masks[budget] = [list(each) for each in zip(*(mask.split(size) for mask in whole), strict=True)]
    return inputs, masks
