"""PyTorch's dense engines: as they are, folded and compiled, in float32 and bfloat16."""
from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bdsa.commands.benchmark.dense_engine import DenseEngine, fastest_way
from bdsa.models.dense_copy import fold_batch_norms
from bdsa.sparse.latency import Engine


class Copied(nn.Module):
    """A copy of a network whose weights and maps are bfloat16; images and logits are float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).bfloat16().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        return self.network(x.bfloat16()).float()


class Autocast(nn.Module):
    """A network under autocast, which says for each operator whether it runs in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(x).float()


def eager(network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    """PyTorch as it is; in bfloat16 the faster of `Copied` and `Autocast`."""
    return _as_they_are("eager", network, inputs, bfloat16)


def folded(network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    """Likewise with batch norms folded; none for a network without."""
    without = fold_batch_norms(network)
    return [] if without is None else _as_they_are("folded", without, inputs, bfloat16)


def compiled(network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    """torch.compile, in bfloat16 of `Copied`."""
    return [DenseEngine("compile", precision, _runs(torch.compile(each, dynamic=False), inputs))
            for precision, each in _precisions(network, bfloat16).items()]


def frozen(network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    """Likewise with the weights as constants."""
    engines = []
    for precision, each in _precisions(network, bfloat16).items():
        # The option in `options` makes it another compiler in dynamo's eyes: it would else run `compiled`'s graph.
        run = torch.compile(each, dynamic=False, options={"freezing": True})
        with torch._inductor.config.patch(freezing=True), torch.inference_mode():  # dynamo looks at the global one
            run(inputs[0])
        engines.append(DenseEngine("frozen", precision, _runs(run, inputs)))
    return engines


def _precisions(network: nn.Module, bfloat16: bool) -> dict[str, nn.Module]:
    return {"float32": network, **({"bfloat16": Copied(network)} if bfloat16 else {})}


def _runs(network: nn.Module, inputs: Sequence[Tensor]) -> Engine:
    return lambda number: network(inputs[number])


def _as_they_are(name: str, network: nn.Module, inputs: Sequence[Tensor], bfloat16: bool) -> list[DenseEngine]:
    engines = [DenseEngine(name, "float32", _runs(network, inputs))]
    if bfloat16:
        ways = {"a bfloat16 copy": _runs(Copied(network), inputs), "autocast": _runs(Autocast(network), inputs)}
        way = fastest_way(ways)
        engines.append(DenseEngine(name, "bfloat16", ways[way], way))
    return engines
