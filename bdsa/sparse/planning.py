"""Which blocks have a plan, and what in the others has none."""
from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

from timm.layers import GELU, ConvMlp, GlobalResponseNormMlp, Mlp
from torch import nn

from bdsa.method.norms import NORMS, Blend
from bdsa.models.blocks import AdaptiveBlock, AdaptiveConvNeXtBlock
from bdsa.sparse.packing import Form, plain_convolution
from bdsa.sparse.plans import KINDS, BottleneckPlan, ConvNeXtPlan, Plan

DILATED = "dilated convolutions (an output_stride below the network's own)"


def plan_block(block: AdaptiveBlock, budget: str | Blend, form: Form) -> Plan | None:
    """Plan a block in evaluation mode; None where `why_masked` says that it has no sparse form."""
    return None if why_masked(block) else KINDS[type(block)](block, budget, form)


def why_masked(block: AdaptiveBlock) -> str | None:
    """What in a block has no sparse form, or None. A layer of a class that is not timm's own is not known here."""
    if type(block) not in KINDS:
        return f"the class {type(block).__name__}"
    bottleneck = KINDS[type(block)] is BottleneckPlan
    layers = {name: m for name, m in block.named_children() if name.startswith(("conv", "bn", "act", "norm", "relu"))}
    for name, layer in layers.items():
        if name.startswith(("bn", "norm")) and type(layer) not in NORMS.values():
            return f"a norm {type(layer).__name__}"
    if KINDS[type(block)] is ConvNeXtPlan:
        return _why_masked_convnext(block)
    if any(getattr(layer, "dilation", (1, 1)) != (1, 1) for layer in layers.values()):
        return DILATED
    kernels, strided = ((1, 3, 1), 1) if bottleneck else ((3, 3), 0)
    convolutions = [layers.get(f"conv{i + 1}") for i in range(len(kernels))]
    if not all(plain_convolution(layer, kernel, grouped=bottleneck and kernel == 3)
               for layer, kernel in zip(convolutions, kernels)):
        return f"convolutions other than {' and '.join(f'{kernel}x{kernel}' for kernel in kernels)}, padded with zeros"
    if any(layer.stride != (1, 1) for i, layer in enumerate(convolutions) if i != strided):
        return f"a stride in another layer than conv{strided + 1}"
    if any(layer.out_channels != after.in_channels for layer, after in pairwise(convolutions)):
        return "layers whose channels do not follow from each other"
    if block.downsample is None and (convolutions[strided].stride != (1, 1)
                                     or convolutions[0].in_channels != convolutions[-1].out_channels):
        return "no shortcut to another size"
    activations = [m for name, m in layers.items() if name.startswith(("act", "relu"))]
    if other := [a for a in activations if type(a) is not nn.ReLU]:
        return f"activation {type(other[0]).__name__}"
    return None


def _why_masked_convnext(block: AdaptiveConvNeXtBlock) -> str | None:
    spatial, norm, mlp = block.conv_dw, block.norm, block.mlp
    if getattr(spatial, "dilation", (1, 1)) != (1, 1):
        return DILATED
    if getattr(spatial, "kernel_size", (7, 7)) != (7, 7):
        return f"a depthwise kernel of {spatial.kernel_size}"
    if not plain_convolution(spatial, 7, grouped=True) or spatial.stride != (1, 1) \
            or spatial.groups != spatial.in_channels:
        return "another depthwise layer than one that is padded with zeros"
    if type(norm) not in NORMS.values():
        return f"a norm {type(norm).__name__}"
    known = (Mlp, ConvMlp, GlobalResponseNormMlp, SimpleNamespace)
    if type(mlp) not in known or not _pointwise(mlp.fc1) or not _pointwise(mlp.fc2):
        return "layers of other classes"
    if type(mlp.act) not in (nn.GELU, GELU) or getattr(mlp.act, "approximate", "none") != "none":
        return f"activation {type(mlp.act).__name__}"
    channels = spatial.in_channels
    if (_reads(mlp.fc1), _reads(mlp.fc2), len(mlp.fc2.weight)) != (channels, len(mlp.fc1.weight), channels):
        return "layers whose channels do not follow from each other"
    return None if type(getattr(mlp, "norm", None)) in (type(None), nn.Identity) else "a norm between its layers"


def _pointwise(layer: nn.Module) -> bool:
    """Whether a layer is linear, or a 1x1 convolution without a stride."""
    return type(layer) is nn.Linear or (plain_convolution(layer, 1) and layer.stride == (1, 1))


def _reads(layer: nn.Linear | nn.Conv2d) -> int:
    """The channels that a pointwise layer reads."""
    return layer.weight.shape[1]
