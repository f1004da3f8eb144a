"""The sparse kernels as torch operators, `torch.ops.bdsa.*`, so that profiler and compiler see them.

On a CPU the native kernels run where they can be built, else PyTorch's own operators (`reference`); on other
devices always the latter. Maps are [B, H, W, C], contiguous float32; masks bool [B, h, w]; matrices as
`packing.pack` makes them. What is named `out` receives the result; of a block it holds the identity before.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bdsa.sparse import native, reference

_BOARD = "Tensor? board, Tensor? board_bias, Tensor(b!)? products, int columns"
SCHEMAS = {
    # Convolution without padding (pad before), kernel rows as taps: act(bias + W * x), without act at the positions
    # of `raw`, bool [B, h, w].
    "convolution": "(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias, int stride, str activation, "
                   "Tensor? raw) -> ()",
    # The same, then the largest of 3x3 windows of stride 2 and padding 1.
    "convolution_pool": "(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias, int stride, str activation) -> ()",
    # Over the channels, in place.
    "layer_norm": "(Tensor(a!) x, Tensor? weight, Tensor? bias, float eps) -> ()",
    # Every position times the columns of several mask units (`scores.Board`): [panels, B * H * W, width].
    "products": "(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias) -> ()",
    # One unit's logits [B, h, w] from its ten columns: nine taps and the linear layer.
    "logits": "(Tensor products, int images, int height, int width, int panel, int column, float offset, int stride) "
              "-> Tensor",
    # Blocks at the masked positions. They return int64 [2], the rows computed at D(m) and at m. With a board,
    # its products (the first `columns`) follow what the block changed, or are all made (`everywhere`).
    "basic": "(Tensor(a!) out, Tensor x, Tensor mask, int stride, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
             f"bool everywhere, {_BOARD}) -> Tensor",
    "bottleneck": "(Tensor(a!) out, Tensor x, Tensor mask, int stride, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
                  f"Tensor w3, Tensor b3, bool everywhere, {_BOARD}) -> Tensor",
    "convnext": "(Tensor(a!) x, Tensor mask, Tensor taps, Tensor taps_bias, float eps, Tensor w1, Tensor b1, "
                f"Tensor w2, Tensor b2, {_BOARD}) -> Tensor",
}
_library = torch.library.Library("bdsa", "DEF")


def _on_cpu(name: str) -> Callable[..., Tensor | None]:
    fast, slow = getattr(native, name), getattr(reference, name)

    def run(*arguments: object) -> Tensor | None:
        return slow(*arguments) if native.missing() else fast(*arguments)
    return run


def _shape_of(name: str) -> Callable[..., Tensor | None]:
    """Shapes without computing, for torch.compile."""
    def of_logits(products: Tensor, images: int, height: int, width: int, panel: int, column: int, offset: float,
                  stride: int) -> Tensor:
        return products.new_empty(images, (height - 1) // stride + 1, (width - 1) // stride + 1)

    def of_rows(*arguments: object) -> Tensor:
        return arguments[0].new_empty(2, dtype=torch.int64)

    if SCHEMAS[name].endswith("()"):
        return lambda *arguments: None
    return of_logits if name == "logits" else of_rows


for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _on_cpu(_name), "CPU")
    _library.impl(_name, getattr(reference, _name), "CUDA")
    _library.impl(_name, _shape_of(_name), "Meta")

convolution = torch.ops.bdsa.convolution.default
convolution_pool = torch.ops.bdsa.convolution_pool.default
layer_norm = torch.ops.bdsa.layer_norm.default
products = torch.ops.bdsa.products.default
logits = torch.ops.bdsa.logits.default
basic = torch.ops.bdsa.basic.default
bottleneck = torch.ops.bdsa.bottleneck.default
convnext = torch.ops.bdsa.convnext.default
