"""The sparse kernels as torch operators, `torch.ops.bdsa.*`, so that profiler and compile see them.

The native kernels run where they can be built, else PyTorch's own operators (`reference`). All this is on a CPU; GPUs
have operators of their own (`bdsa.sparse.gpu.operators`). Maps are [B, H, W, C], contiguous, of float32 or bfloat16;
masks bool [B, h, w]; matrices as `packing.pack` makes them. What is named `out` receives the result.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from bdsa.sparse import native, native_int8, reference, reference_int8
from bdsa.sparse.recording import cannot_record

_BOARD = "Tensor? board, Tensor? board_bias, Tensor(c!)? products, int columns"
_SHORTCUT = "Tensor? projected, Tensor? projection, Tensor? projection_bias, int projected_stride, bool everywhere"
_INT8 = "Tensor[] weights, Tensor[] biases, Tensor[] scales, float[] bytes"
SCHEMAS = {
    # A map of any strides, with a border of zeros.
    "pad": "(Tensor(a!) out, Tensor x, int padding)",
    # The same of images; `infinite`, int32 [1], becomes 1 if a value is infinite or not a number.
    "take_in": "(Tensor(a!) out, Tensor x, int padding, Tensor(b!) infinite)",
    # Convolution without padding (pad before), kernel rows as taps: act(bias + W * x).
    "convolution": "(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias, int stride, str activation)",
    # The same, then the largest of 3x3 windows of stride 2 and padding 1.
    "convolution_pool": "(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias, int stride, str activation)",
    # Over the channels, in place.
    "layer_norm": "(Tensor(a!) x, Tensor? weight, Tensor? bias, float eps)",
    # Over the positions: [B, 1, 1, C].
    "mean": "(Tensor(a!) out, Tensor x)",
    # Every stride-th position with zeros for the channels that are new, `before` of them in front; activated by a
    # relu where the mask is not: the identity of a block without projection.
    "subsample": "(Tensor(a!) out, Tensor x, Tensor mask, int stride, int before)",
    # Windows without padding; those that reach over the border are the mean of what lies within.
    "average_pool": "(Tensor(a!) out, Tensor x, int kernel, int stride)",
    # Every position times the columns of several mask units (`scores.Board`): [panels, B * H * W, width].
    "products": "(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias)",
    # One unit's logits [B, h, w] from its ten columns, nine taps and the linear layer, for a map [B, height, width];
    # and its mask, where they are not negative.
    "decide": "(Tensor(a!) logits, Tensor(b!) mask, Tensor products, int height, int width, int panel, int column, "
              "float offset, int stride)",
    # The same of a unit on its own, from the map x: taps [9, C], context [C].
    "unit": "(Tensor(a!) logits, Tensor(b!) mask, Tensor x, Tensor taps, Tensor context, float offset, int stride)",
    # A mask [B, h, w] by purses: the lowest threshold on the logits at which an image can pay the block and what those
    # behind it are expected to cost (`bdsa.method.exact`). `left`, float64 [B]: what it may still spend. height, width:
    # of the map where the layers at D(m) run; stride, reach: of the convolution that reads them. offsets, ahead, scale
    # and moved: an `Ahead`. start: what an image may spend in all, at the first block; below zero at the others.
    "exact": "(Tensor(a!) mask, Tensor(b!) left, Tensor logits, int macs, int dilated_macs, int height, int width, "
             "int stride, int reach, Tensor offsets, Tensor ahead, float start, float scale, float moved)",
    # Blocks at the masked positions. The first layer runs at D(m) or, where `submanifold`, at m with zeros elsewhere.
    # `rows`, int64 [2], says how many were computed at D(m), which are none then, and at m. With a projection, a 1x1
    # convolution of `projected`, that is the identity, and the last bias includes its own; else `out` holds the
    # identity before, which is not x if `everywhere`. `group`: channels of a group of the 3x3 convolution
    # (`packing.pack_groups`), or 0. With a board, its products (the first `columns`) follow what the block changed.
    "basic": "(Tensor(a!) out, Tensor x, Tensor mask, Tensor(b!) rows, int stride, bool submanifold, Tensor w1, "
             f"Tensor b1, Tensor w2, Tensor b2, {_SHORTCUT}, {_BOARD})",
    "bottleneck": "(Tensor(a!) out, Tensor x, Tensor mask, Tensor(b!) rows, int stride, bool submanifold, Tensor w1, "
                  f"Tensor b1, Tensor w2, Tensor b2, int group, Tensor w3, Tensor b3, {_SHORTCUT}, {_BOARD})",
    # response: the weight of a global response norm over the active positions, whose bias is in b2.
    "convnext": "(Tensor(a!) x, Tensor mask, Tensor(b!) rows, Tensor taps, Tensor taps_bias, float eps, Tensor w1, "
                f"Tensor b1, Tensor w2, Tensor b2, Tensor? response, float response_eps, {_BOARD})",
    # The same of maps of bfloat16 with products of int8: matrices as `quantised.Quantised` has them, with their scales,
    # and two numbers for the bytes of each one's rows. Basic blocks have two, bottlenecks three.
    "residual_int8": f"(Tensor(a!) out, Tensor x, Tensor mask, Tensor(b!) rows, int stride, bool submanifold, {_INT8}, "
                     "Tensor? projected, Tensor? projection, Tensor? projection_bias, Tensor? projection_scale, "
                     f"float[] projection_bytes, int projected_stride, bool everywhere, {_BOARD})",
    "convnext_int8": "(Tensor(a!) x, Tensor mask, Tensor(b!) rows, Tensor taps, Tensor taps_bias, float eps, "
                     f"{_INT8}, {_BOARD})",
}
_library = torch.library.Library("bdsa", "DEF")


def _on_cpu(name: str) -> Callable[..., None]:
    int8 = name.endswith("_int8")
    fast = getattr(native_int8 if int8 else native, name)
    slow = _unrecorded(getattr(reference_int8 if int8 else reference, name))
    return lambda *arguments: slow(*arguments) if native.unavailable() else fast(*arguments)


def _unrecorded(function: Callable[..., None]) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        cannot_record()
        function(*arguments)
    return run


for _name, _schema in SCHEMAS.items():
    _library.define(f"{_name}{_schema} -> ()")
    _library.impl(_name, _on_cpu(_name), "CPU")
    _library.impl(_name, lambda *arguments: None, "Meta")  # shapes are the caller's: nothing to say to torch.compile

pad = torch.ops.bdsa.pad.default
take_in = torch.ops.bdsa.take_in.default
convolution = torch.ops.bdsa.convolution.default
convolution_pool = torch.ops.bdsa.convolution_pool.default
layer_norm = torch.ops.bdsa.layer_norm.default
mean = torch.ops.bdsa.mean.default
subsample = torch.ops.bdsa.subsample.default
average_pool = torch.ops.bdsa.average_pool.default
products = torch.ops.bdsa.products.default
decide = torch.ops.bdsa.decide.default
unit = torch.ops.bdsa.unit.default
exact = torch.ops.bdsa.exact.default
basic = torch.ops.bdsa.basic.default
bottleneck = torch.ops.bdsa.bottleneck.default
convnext = torch.ops.bdsa.convnext.default
residual_int8 = torch.ops.bdsa.residual_int8.default
convnext_int8 = torch.ops.bdsa.convnext_int8.default
