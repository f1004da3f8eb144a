"""A sparse network within torch.export: while it is traced, its program takes the place of its layers."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from bdsa.budgets import DENSE
from bdsa.errors import UserError
from bdsa.models.asking import asked_around
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse import precision
from bdsa.sparse.torch_operator import Portable, call_network, portable

INSTEAD = "torch.export.export(bdsa.portable(network), (images, torch.tensor(0.5))), or network.execution = 'masked'"


def exported(network: AdaptiveNetwork, x: Tensor, budget: float | Tensor | None,
             per_image: bool | Tensor | None = None, extrapolate: bool | None = None, cascade: bool = False) -> Tensor:
    """Logits [B, classes] in a graph that torch.export traces: one operator, with the packed weights as a constant.

    Args:
        x: images [B, C, H, W], fake.
        budget: a number, which is then fixed; or a tensor of one number, an input of what is exported: one of those
            that the network was trained for, or 1.
        per_image: as in `AdaptiveNetwork.forward`, which is then fixed; or a tensor of one bool, an input likewise.
        extrapolate: as there.
        cascade: as there; any mean budget is then an input's.

    Raises:
        UserError: for what has no program (`program_of`), and where the weights cannot be seen.
    """
    if budget is None and (around := asked_around(network)) is not None and around.point.name is not None:
        budget, per_image, extrapolate = around.point.budget, around.exactly(per_image), True  # which was asked there
    if network.precision == "int8":
        raise UserError("a network in int8 cannot be exported yet: set network.precision to bfloat16 or float32")
    if network.precision == "auto" and precision.dtype_of("auto") != torch.float32:
        raise UserError("precision='auto' is chosen by images, of which an export has none: set network.precision to "
                        "bfloat16 or float32")
    fixed = not isinstance(budget, Tensor)
    kind = str(precision.dtype_of(network.precision)).removeprefix("torch.")
    state = [*network.named_parameters(), *network.named_buffers()]
    real = _real([tensor for _, tensor in state])
    chosen = [float(DENSE if budget is None else budget)] if fixed else None

    def make() -> tuple[Portable, Tensor, Tensor | None]:
        with torch.nn.utils.stateless._reparametrize_module(network, dict(zip((name for name, _ in state), real))):
            made = portable(network, chosen, kind, cascade=cascade, extrapolate=extrapolate,
                            per_image=None if isinstance(per_image, Tensor) else per_image)
        return made, torch.tensor(made.budgets[0]), made.per_image

    with ThreadPoolExecutor(1) as elsewhere:  # another thread has none of the modes that trace
        made, only, exactly = elsewhere.submit(make).result()
    asked = per_image if isinstance(per_image, Tensor) else exactly
    return call_network(x, made.program, only if fixed else budget, made.classes, asked)


def _real(traced: list[Tensor]) -> list[Tensor]:
    """The tensors that stand behind those which torch.export traces."""
    mode = torch._guards.detect_fake_mode(traced)
    if mode is None:
        return traced
    try:
        converter = mode.fake_tensor_converter.meta_converter
        behind = {id(fake): tensor for tensor, number in converter.describer.lookup_tensor.items()
                  if (fake := converter.tensor_memo.get(number)) is not None}
        return [behind[id(fake)] for fake in traced]
    except (AttributeError, KeyError) as error:
        raise UserError(f"torch.export hides the weights of this sparse network: {INSTEAD}") from error
