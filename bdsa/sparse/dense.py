"""What is dense in every budget (stem, down-sampling between stages), with norms folded and packed like the blocks."""
from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from timm.layers import LayerNorm2d, NormMlpClassifierHead, SelectAdaptivePool2d
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d as TorchvisionLayerNorm2d
from torchvision.ops.misc import Conv2dNormActivation

from bdsa.models.cifar_resnet import CifarResNet
from bdsa.models.torchvision_networks import AdaptiveTorchvisionConvNeXt, AdaptiveTorchvisionResNet
from bdsa.sparse import operators
from bdsa.sparse.packing import Form, folded, pack, rows_first
from bdsa.sparse.recording import cannot_record
from bdsa.sparse.workspace import Workspace

NORMS = (LayerNorm2d, TorchvisionLayerNorm2d)
Step = Callable[[Tensor, Workspace, str], Tensor]  # [B, H, W, C], rooms and a name in them -> [B, h, w, C']


def dense_steps(modules: Iterable[nn.Module], form: Form) -> list[Step]:
    """Steps that do what the modules do one after another, in evaluation mode.

    Args:
        modules: of a network's trunk; what the kernels do not know runs as it is.
        form: of the matrices.
    """
    left = [leaf for module in modules for leaf in _leaves(module)]
    steps: list[Step] = []
    while left:
        module = left.pop(0)
        if isinstance(module, nn.Conv2d) and _known(module):
            norm = left.pop(0) if left and type(left[0]) is nn.BatchNorm2d else None
            relu = bool(left) and type(left[0]) is nn.ReLU
            if relu:
                left.pop(0)
            pool = bool(left) and _known_pool(left[0])
            if pool:
                left.pop(0)
            steps.append(Convolution(module, norm, relu, pool, form))
        elif type(module) in NORMS:
            steps.append(LayerNorm(module))
        else:
            steps.append(AsItIs(module))
    return steps


def head_steps(network: nn.Module, form: Form) -> list[Step] | None:
    """Steps from a network's last map to its logits [B, 1, 1, classes]; None for a head that is not known."""
    if type(network).forward_head is ConvNeXt.forward_head:
        head = network.head
        if type(head) is not NormMlpClassifierHead or not isinstance(head.pre_logits, nn.Identity):
            return None
        pool, norm, classifier = head.global_pool, head.norm, head.fc
    elif type(network).forward_head in (ResNet.forward_head, CifarResNet.forward_head):
        pool, norm, classifier = network.global_pool, nn.Identity(), network.fc
    elif type(network).forward_head is AdaptiveTorchvisionResNet.forward_head:
        pool, norm, classifier = network.avgpool, nn.Identity(), network.fc
    elif type(network).forward_head is AdaptiveTorchvisionConvNeXt.forward_head and \
            isinstance(network.classifier, nn.Sequential) and len(network.classifier) == 3:
        pool, (norm, _, classifier) = network.avgpool, network.classifier
    else:
        return None
    averages = (type(pool) is SelectAdaptivePool2d and pool.pool_type == "avg") or \
        (type(pool) is nn.AdaptiveAvgPool2d and _pair(pool.output_size) == (1, 1))
    if not averages or type(norm) not in (nn.Identity, *NORMS) or type(classifier) is not nn.Linear:
        return None
    norms: list[Step] = [] if type(norm) is nn.Identity else [LayerNorm(norm)]
    return [Mean(), *norms, Convolution(classifier, None, False, False, form, torch.float32)]


class Convolution:
    """A convolution with the norm, the relu and the max pooling behind it, if there are any."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: nn.Module | None, relu: bool, pool: bool, form: Form,
                 dtype: torch.dtype | None = None) -> None:
        weight, bias = folded(layer, norm)
        self.matrix, self.channels = pack(rows_first(weight), bias, form), weight.shape[1]
        self.dtype = dtype  # of the results, where it is not that of the map
        self.stride, self.padding = (layer.stride[0], layer.padding[0]) if isinstance(layer, nn.Conv2d) else (1, 0)
        self.activation = "relu" if relu else "none"
        self.pool = pool

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        if self.padding:
            x = padded(x, self.padding, workspace, f"{name} padded")
        if x.shape[3] != self.channels:
            raise ValueError(f"a layer reads {self.channels} channels, and the map before it has {x.shape[3]}")
        size = self.matrix.output_size(x, self.stride)
        if self.pool:
            size = tuple((side - 1) // 2 + 1 for side in size)
        out = workspace.room(name, (len(x), *size, self.matrix.columns), x, self.dtype)
        run = operators.convolution_pool if self.pool else operators.convolution
        run(out, x, self.matrix.weight, self.matrix.bias, self.stride, self.activation)
        return out


class LayerNorm:
    def __init__(self, norm: nn.LayerNorm) -> None:
        self.affine = [None if t is None else t.detach().float() for t in (norm.weight, norm.bias)]
        self.eps, self.channels = norm.eps, norm.normalized_shape[0]

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        if x.shape[3] != self.channels:
            raise ValueError(f"a norm is of {self.channels} channels, and the map before it has {x.shape[3]}")
        operators.layer_norm(x, *self.affine, self.eps)
        return x


class Mean:
    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        out = workspace.room(name, (len(x), 1, 1, x.shape[3]), x)
        operators.mean(out, x)
        return out


class AsItIs:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        cannot_record()
        return self.module(x.permute(0, 3, 1, 2).float()).to(x.dtype).permute(0, 2, 3, 1).contiguous()


def padded(x: Tensor, padding: int, workspace: Workspace, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """[B, H, W, C] of any strides with a border of zeros, in the room of that name, of its type or another."""
    images, height, width, channels = x.shape
    out = workspace.room(name, (images, height + 2 * padding, width + 2 * padding, channels), x, dtype)
    operators.pad(out, x, padding)
    return out


def _leaves(module: nn.Module) -> Iterable[nn.Module]:
    if type(module) in (nn.Sequential, Conv2dNormActivation):
        for child in module:
            yield from _leaves(child)
    elif not isinstance(module, nn.Identity):
        yield module


def _known(layer: nn.Conv2d) -> bool:
    square = layer.kernel_size[0] == layer.kernel_size[1] and layer.stride[0] == layer.stride[1]
    padded = isinstance(layer.padding, tuple) and layer.padding[0] == layer.padding[1] and layer.padding_mode == "zeros"
    return type(layer) is nn.Conv2d and layer.groups == 1 and layer.dilation == (1, 1) and square and padded


def _known_pool(module: nn.Module) -> bool:
    return type(module) is nn.MaxPool2d and _pair(module.kernel_size) == (3, 3) and not module.ceil_mode \
        and _pair(module.stride) == (2, 2) and _pair(module.padding) == (1, 1) and _pair(module.dilation) == (1, 1)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
