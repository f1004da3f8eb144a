"""Where the time of a budget goes: torch's profiler, by block and by kind of work.

Times are those of the main thread, which waits for the others. The profiler itself adds a microsecond or two to every
operator, which a small network feels: read the shares.
"""
from __future__ import annotations

import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from bdsa.budgets import Budget
from bdsa.commands.benchmark.synthetic_masks import block_shapes
from bdsa.models.blocks import AdaptiveBlock
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.usage import Request
from bdsa.report.terminal import print_whole
from bdsa.runs.files import write_json, write_text
from bdsa.sparse.block_step import BlockStep
from bdsa.sparse.dense import Step
from bdsa.sparse.execution import executor_at, uses_executor
from bdsa.sparse.latency import network_engine

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own log would stand between the tables
PLACE, MASK_UNIT = "bdsa/place/", "bdsa/mask unit"  # names of profiler ranges
ELSEWHERE = "elsewhere"
PYTHON = "python"  # between the operators

# The first pattern that an operator's name matches says what kind of work it is; so does an operator's caller's.
KINDS = {"mask unit": "bdsa::(unit|products|decide)", "sparse branch": "bdsa::(basic|bottleneck|residual|convnext)",
         "dense convolutions": "conv|linear|addmm|matmul|::b?mm",
         "norms and activations": "norm|relu|gelu", "indices": "nonzero|index|gather|scatter|max_pool",
         "pooling": "bdsa::(mean|average_pool|subsample)",
         "copies": "copy|contiguous|clone|cat$|pad|empty|fill|zero|resize"}
OTHER = "other operators"


def write_profiles(networks: Mapping[str, AdaptiveNetwork], inputs: Sequence[Tensor],
                   masks: Mapping[float, Sequence[Sequence[Tensor]]], result: Mapping[str, Any], folder: Path) -> None:
    """Write profile-<budget>-<precision asked for>.txt and .json for every row of a benchmark, and print the totals.

    Args:
        networks: in eval mode, by the precision asked for.
        inputs, masks: what the benchmark ran on; see `bdsa.commands.benchmark.latency.batches`.
        result: the content of benchmark.json.
        folder: where it is kept.
    """
    for row in (r for r in result["rows"] if not Budget(r["budget"]).is_dense):
        network = networks[row["asked"]]
        macs = result["batch_size"] * network.dense_macs(tuple(inputs[0].shape[2:]))
        found = {"dense_gmacs_per_second": 1e-6 * macs / result["fastest"]["any"]["ms"],
                 **profile_budget(network, inputs, row["budget"], result["execution"], masks.get(row["budget"]))}
        path = folder / f"profile-{row['name']}-{row['asked']}.json"
        about = {key: row[key] for key in ("budget", "asked", "precision", "ms", "speedup", "efficiency")}
        write_json(path, {**about, **found})
        text = io.StringIO()
        for table in (places_table(found, row), operators_table(found)):
            print_whole(table, text)
        write_text(path.with_suffix(".txt"), text.getvalue())
        shares = ", ".join(f"{kind} {100 * ms / found['profiled_ms']:.0f} %" for kind, ms in found["kinds"].items())
        print(f"budget {row['budget']:g} in {row['precision']}, efficiency {row['efficiency']:.2f}: {shares}")
        print(f"  profile    {path.with_suffix('.txt')}")


def profile_budget(network: AdaptiveNetwork, inputs: Sequence[Tensor], budget: float, execution: str,
                   masks: Sequence[Sequence[Tensor]] | None = None) -> dict[str, Any]:
    """Milliseconds an inference, mean over the inputs: in total, by kind, by place and by operator.

    Returns:
        profiled_ms, kinds (name -> ms), places (name, ms, kinds; of blocks also macs, the conditional ones, and
        gmacs_per_second, in the branch where it runs sparsely) in the order of the network, and operators (name,
        calls, ms), slowest first.
    """
    engine = network_engine(network, inputs, budget, execution, masks)
    with torch.inference_mode():
        engine(0)  # what is made at first use, is made
    with torch.inference_mode(), labelled(network, budget):
        engine(0)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for number in range(len(inputs)):
                engine(number)
    places: dict[str, dict[str, float]] = {}
    operators: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    each = 1e-3 / len(inputs)  # microseconds of all inputs -> milliseconds of one
    for event in sorted(profiled.events(), key=lambda e: e.time_range.start):
        ms = event.self_cpu_time_total * each
        place, kind = where(event)
        places.setdefault(place, defaultdict(float))[kind] += ms
        if not event.name.startswith("bdsa/"):
            operators[event.name][0] += 1 / len(inputs)
            operators[event.name][1] += ms
    macs = _macs(network, inputs, budget, masks)
    rows = []
    for name, kinds in places.items():
        row: dict[str, Any] = {"name": name, "ms": sum(kinds.values()), "kinds": dict(kinds)}
        if name in macs:
            seconds = 1e-3 * kinds.get("sparse branch", row["ms"] - kinds.get("mask unit", 0))
            row.update(macs=macs[name], gmacs_per_second=1e-9 * macs[name] / seconds if seconds else None)
        rows.append(row)
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        for kind, ms in row["kinds"].items():
            totals[kind] += ms
    slowest = sorted(operators.items(), key=lambda item: -item[1][1])
    return {"profiled_ms": sum(totals.values()), "kinds": dict(sorted(totals.items(), key=lambda item: -item[1])),
            "places": rows, "operators": [{"name": name, "calls": calls, "ms": ms} for name, (calls, ms) in slowest]}


def where(event: FunctionEvent) -> tuple[str, str]:
    """The place and the kind of work of an event: its own, or the nearest caller's that has one."""
    kind = PYTHON if event.name.startswith("bdsa/") else None
    at: FunctionEvent | None = event
    while at is not None:
        if at.name == MASK_UNIT:
            kind = "mask unit"
        elif at.name.startswith(PLACE):
            return at.name.removeprefix(PLACE), kind or OTHER
        elif kind is None:
            kind = next((k for k, pattern in KINDS.items() if re.search(pattern, at.name)), None)
        at = at.cpu_parent
    return ELSEWHERE, kind or OTHER


def _places(network: AdaptiveNetwork) -> dict[nn.Module, str]:
    """Every module between image and head -> its name: blocks, stem and what is between stages."""
    names = {module: name for name, module in network.named_modules()}
    return {**{module: names[module] for module in network.trunk()}, network: "head"}


@contextmanager
def labelled(network: AdaptiveNetwork, budget: float) -> Iterator[None]:
    """Within it, a profiler sees which place of the network an operator belongs to.

    A network that runs by executors has steps of its own; else it calls the blocks, and the dense modules between them.
    """
    wrapped: list[tuple[nn.Module, str]] = []

    def wrap(module: nn.Module, method: str, label: str) -> None:
        setattr(module, method, _ranged(getattr(module, method), label))
        wrapped.append((module, method))

    packed = uses_executor(network)
    # A network whose modules have methods of their own does not run sparsely.
    for module, name in () if packed else _places(network).items():
        method = "run" if isinstance(module, AdaptiveBlock) else "forward_head" if module is network else "forward"
        wrap(module, method, PLACE + name)
        for unit in module.mask_units.values() if isinstance(module, AdaptiveBlock) else ():
            wrap(unit, "forward", MASK_UNIT)
    executor = executor_at(network, budget) if packed else None
    steps, head = (executor.steps, executor.head) if executor else ([], None)
    try:
        if executor:
            executor.steps = _labelled_steps(network, steps)
            executor.head = head and [_ranged(step, f"{PLACE}head") for step in head]
        yield
    finally:
        for module, method in wrapped:
            delattr(module, method)  # the class's is there again
        if executor:
            executor.steps, executor.head = steps, head


def _labelled_steps(network: AdaptiveNetwork, steps: Sequence[Step | BlockStep]) -> list[Step | BlockStep]:
    """Steps of sparse execution that tell a profiler their place: a block, or the dense steps before it."""
    names, found = _places(network), []
    blocks = [names[step.block] for step in steps if isinstance(step, BlockStep)]
    for step in steps:
        if isinstance(step, BlockStep):
            place = PLACE + blocks.pop(0)
            found.append(replace(step))
            found[-1].scores = _ranged(_ranged(step.scores, MASK_UNIT), place)
            for method in ("identity", "run_sparse", "run_masked"):
                setattr(found[-1], method, _ranged(getattr(step, method), place))
        else:
            found.append(_ranged(step, f"{PLACE}before {blocks[0]}" if blocks else f"{PLACE}after the blocks"))
    return found


def _ranged(function: Callable, label: str) -> Callable:
    def ranged(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return ranged


def _macs(network: AdaptiveNetwork, inputs: Sequence[Tensor], budget: float,
          masks: Sequence[Sequence[Tensor]] | None) -> dict[str, float]:
    """Conditional MACs that every block runs in an inference (of a whole batch), mean over the inputs."""
    names = _places(network)
    shapes = block_shapes(network, tuple(inputs[0].shape[2:]))
    macs: dict[str, float] = defaultdict(float)
    for number, images in enumerate(inputs):
        given = None if masks is None else masks[number]
        if given is None:
            with torch.inference_mode():
                given = network(images, budget=budget, return_usage=True)[1].masks
        for shape, mask in zip(shapes, given, strict=True):
            size = images.new_empty(1).expand(len(images), 1, *shape.input)
            cost, _ = shape.block.cost(mask.float(), mask.float() - 0.5, size, Request("any"))
            macs[names[shape.block]] += float(cost.sum()) / len(inputs)
    return dict(macs)


def places_table(found: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    """A line a place, its milliseconds by kind, and how fast its MACs ran."""
    kinds = list(found["kinds"])
    title = (f"budget {row['budget']:g} in {row['precision']}: {row['ms']:.2f} ms, speedup {row['speedup']:.2f}, "
             f"efficiency {row['efficiency']:.2f}; the fastest dense engine runs "
             f"{found['dense_gmacs_per_second']:.1f} GMACs/s\n"
             f"profiled milliseconds by place and kind")
    table = _table(title, "", "ms", *kinds, "MMACs", "GMACs/s")
    for place in [*found["places"], {"name": "all", "ms": found["profiled_ms"], "kinds": found["kinds"]}]:
        speed = place.get("gmacs_per_second")
        table.add_row(place["name"], f"{place['ms']:.3f}",
                      *(f"{place['kinds'][k]:.3f}" if k in place["kinds"] else "" for k in kinds),
                      f"{1e-6 * place['macs']:.1f}" if "macs" in place else "", "" if speed is None else f"{speed:.1f}")
    return table


def operators_table(found: Mapping[str, Any], most: int = 25) -> Table:
    """The slowest operators, without those that they call."""
    table = _table("operators, without those that they call", "", "calls", "ms")
    for operator in found["operators"][:most]:
        table.add_row(operator["name"], f"{operator['calls']:.0f}", f"{operator['ms']:.3f}")
    return table


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="", title=title)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
