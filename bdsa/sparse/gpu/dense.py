"""What is dense in every budget, on a GPU: PyTorch's own operators in channels-last, norms folded in."""
from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from bdsa.sparse import dense
from bdsa.sparse.workspace import Workspace


def on_gpu(step: dense.Step, dtype: torch.dtype) -> dense.Step:
    """The form of a dense step for maps of a type. Steps have a memory of their own: the allocator's, or a graph's."""
    if isinstance(step, dense.Convolution):
        return _Convolution(step, dtype)
    if isinstance(step, dense.LayerNorm):
        return _LayerNorm(step, dtype)
    return _Mean() if isinstance(step, dense.Mean) else _AsItIs(step, dtype)


class _Convolution:
    def __init__(self, step: dense.Convolution, dtype: torch.dtype) -> None:
        dtype = step.dtype or dtype  # a classifier's own: logits are not rounded
        matrix = step.matrix.plain()                                       # [kh, kw * C, out]
        kernel = matrix.reshape(len(matrix), -1, step.channels, step.matrix.columns).permute(3, 2, 0, 1)
        self.weight = kernel.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = step.matrix.bias.to(dtype)
        self.stride, self.padding = step.stride, step.padding
        self.relu, self.pool = step.activation == "relu", step.pool

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        side = self.weight.shape[2]
        if min(x.shape[1:3]) + 2 * self.padding < side:
            raise ValueError(f"the image is too small for this network: a {side}x{side} kernel meets a map of "
                             f"{x.shape[1]}x{x.shape[2]}")
        y = F.conv2d(x.permute(0, 3, 1, 2).to(self.weight.dtype), self.weight, self.bias, self.stride, self.padding)
        y = y.relu_() if self.relu else y
        y = F.max_pool2d(y, 3, 2, 1) if self.pool else y
        return y.permute(0, 2, 3, 1).contiguous()


class _LayerNorm:
    def __init__(self, step: dense.LayerNorm, dtype: torch.dtype) -> None:
        self.affine = [None if t is None else t.to(dtype) for t in step.affine]
        self.eps = step.eps

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self.affine, self.eps)


class _Mean:
    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        return x.mean(dim=(1, 2), keepdim=True)


class _AsItIs:
    def __init__(self, step: dense.AsItIs, dtype: torch.dtype) -> None:
        self.module = copy.deepcopy(step.module).to(dtype)

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        return self.module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
