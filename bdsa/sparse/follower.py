"""Follow the sparse operators of one inference, and write each down with registers for the memory that it uses."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bdsa.errors import UserError
from bdsa.sparse.native import ACTIVATIONS, matrix_words

Argument = int | float | Tensor | None  # tensors: weights
Instruction = tuple[int, list[Argument]]
CODES = ("pad", "convolution", "layer_norm", "mean", "subsample", "average_pool", "products", "decide", "unit",
         "residual", "convnext", "ones", "exact", "submanifold")
IMAGE, LOGITS = 0, 1
NO_MATRIX: list[Argument] = [0] * 6
# Views and memory; what computes has no place in a program.
HARMLESS = {"aten::empty", "aten::view", "aten::slice", "aten::permute", "aten::select", "aten::detach", "aten::alias",
            "aten::as_strided", "aten::unsqueeze", "aten::expand", "aten::_unsafe_view", "aten::_reshape_alias"}


class Follower(TorchDispatchMode):
    """A mode in which operators run and are written down.

    Attributes:
        registers: a number for each room of maps, by what a program before called it.
        where: what runs, for a message.
    """

    def __init__(self, registers: dict[int, int] | None = None) -> None:
        super().__init__()
        self.registers: dict[int, int] = registers or {}
        self.where = "the stem"

    def begin(self, image: Tensor) -> None:
        """Start anew, from an image [1, C, H, W]."""
        self.instructions: list[Instruction] = []
        self.kept: list[Tensor] = [image]  # memory that nobody else gets meanwhile
        self.rooms = {image.data_ptr(): IMAGE}
        self.full: set[int] = set()  # masks of ones that no instruction has made yet

    def end(self, logits: Tensor) -> list[Instruction]:
        """What was followed, up to the logits [1, classes]: the last instruction gives them."""
        code, arguments = self.instructions[-1]
        if CODES[code] != "convolution" or arguments[0] != self._room(logits):
            raise UserError(f"{self.where} cannot be exported: it does not end with a linear layer")
        self.instructions[-1] = (code, [LOGITS, *arguments[1:]])
        for number in self.rooms.values():  # as many as any budget needs
            self.registers[number] = number
        return self.instructions

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name.startswith("bdsa::"):
            self.kept += [a for a in args if isinstance(a, Tensor)]
            self._write(name.removeprefix("bdsa::"), args)
        elif name == "aten::fill_" and args[0].dtype == torch.bool and args[1] is True:
            self.kept.append(args[0])
            self.full.add(args[0].data_ptr())
        elif name not in HARMLESS:
            raise UserError(f"{self.where} cannot be exported: {name.removeprefix('aten::')} runs there as an operator "
                            f"of PyTorch, for which there is no native form")
        return out

    def _room(self, x: Tensor) -> int:
        """The register of a map's memory."""
        return self.rooms.setdefault(x.data_ptr(), len(self.rooms) + 1)  # 1 is for logits

    def _add(self, name: str, *arguments: Argument) -> None:
        self.instructions.append((CODES.index(name), list(arguments)))

    def _mask(self, mask: Tensor, x: Tensor, stride: int) -> int:
        """The register of a mask of the map x; the dense network's is made now."""
        if mask.data_ptr() in self.full:
            self.full.remove(mask.data_ptr())
            self._add("ones", self._room(mask), self._room(x), stride)
        return self._room(mask)

    def _write(self, name: str, args: tuple) -> None:
        writers: dict[str, Callable[..., None]] = {
            "pad": self._pad, "take_in": self._pad, "convolution": self._convolution,
            "layer_norm": self._layer_norm, "mean": self._mean,
            "convolution_pool": lambda *a: self._convolution(*a, pool=True), "subsample": self._subsample,
            "average_pool": self._average_pool, "products": self._products, "decide": self._decide, "unit": self._unit,
            "exact": self._exact, "basic": self._basic, "bottleneck": self._bottleneck, "convnext": self._convnext}
        writers[name](*args)

    def _pad(self, out: Tensor, x: Tensor, padding: int, infinite: Tensor | None = None) -> None:
        self._add("pad", self._room(out), self._room(x), padding)

    def _convolution(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str,
                     pool: bool = False) -> None:
        matrix = matrix_words(weight, bias, weight.shape[1] ** 2 * x.shape[3])
        to_float = out.dtype == torch.float32 and out.shape[1:3] == (1, 1) and not pool
        self._add("convolution", self._room(out), self._room(x), *matrix, stride, ACTIVATIONS[activation], int(pool),
                  int(to_float))

    def _layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        self._add("layer_norm", self._room(x), weight, bias, eps)

    def _mean(self, out: Tensor, x: Tensor) -> None:
        self._add("mean", self._room(out), self._room(x))

    def _subsample(self, out: Tensor, x: Tensor, mask: Tensor, stride: int, before: int) -> None:
        self._add("subsample", self._room(out), self._room(x), self._mask(mask, x, stride), stride, before,
                  out.shape[3])

    def _average_pool(self, out: Tensor, x: Tensor, kernel: int, stride: int) -> None:
        self._add("average_pool", self._room(out), self._room(x), kernel, stride)

    def _products(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
        self._add("products", self._room(x), *self._board(weight, bias, out, len(bias), x.shape[3]))

    def _decide(self, logits: Tensor, mask: Tensor, products: Tensor, height: int, width: int, panel: int, column: int,
                offset: float, stride: int) -> None:
        self._add("decide", self._room(logits), self._room(mask), self._room(products), panel, column, stride,
                  float(offset))

    def _unit(self, logits: Tensor, mask: Tensor, x: Tensor, taps: Tensor, context: Tensor, offset: float,
              stride: int) -> None:
        self._add("unit", self._room(logits), self._room(mask), self._room(x), taps, context, stride, float(offset))

    def _exact(self, mask: Tensor, left: Tensor, logits: Tensor, macs: int, dilated_macs: int, height: int, width: int,
               stride: int, reach: int, *purse: Any) -> None:
        read = self.instructions[-1][1][2]  # what the decision before was made from has the size of the block's input
        self._add("exact", self._room(mask), self._room(logits), read, macs, dilated_macs, stride, reach)

    def _basic(self, out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool, w1: Tensor,
               b1: Tensor, w2: Tensor, b2: Tensor, *rest: Any) -> None:
        self._bottleneck(out, x, mask, rows, stride, submanifold, w1, b1, w2, b2, 0, None, None, *rest)

    def _bottleneck(self, out: Tensor, x: Tensor, mask: Tensor, rows: Tensor, stride: int, submanifold: bool,
                    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, group: int, w3: Tensor | None, b3: Tensor | None,
                    projected: Tensor | None, projection: Tensor | None, projection_bias: Tensor | None,
                    projected_stride: int, everywhere: bool, board: Tensor | None, board_bias: Tensor | None,
                    products: Tensor | None, columns: int) -> None:
        first = matrix_words(w1, b1, x.shape[3] * (9 if w3 is None else 1))
        second = matrix_words(w2, b2, 9 * len(b1), group)
        third = NO_MATRIX if w3 is None else matrix_words(w3, b3, len(b2))
        shortcut = [-1, *NO_MATRIX, 1] if projected is None else [
            self._room(projected), *matrix_words(projection, projection_bias, projected.shape[3]), projected_stride]
        self._add("submanifold" if submanifold else "residual", self._room(out), self._room(x),
                  self._mask(mask, x, stride), stride, *first, *second, *third, *shortcut, int(everywhere),
                  *self._board(board, board_bias, products, columns, out.shape[3]))

    def _convnext(self, x: Tensor, mask: Tensor, rows: Tensor, taps: Tensor, taps_bias: Tensor, eps: float, w1: Tensor,
                  b1: Tensor, w2: Tensor, b2: Tensor, response: Tensor | None, response_eps: float,
                  board: Tensor | None, board_bias: Tensor | None, products: Tensor | None, columns: int) -> None:
        self._add("convnext", self._room(x), self._mask(mask, x, 1), taps, taps_bias, float(eps),
                  *matrix_words(w1, b1, x.shape[3]), *matrix_words(w2, b2, len(b1)), response, float(response_eps),
                  *self._board(board, board_bias, products, columns, x.shape[3]))

    def _board(self, weight: Tensor | None, bias: Tensor | None, products: Tensor | None, columns: int, channels: int
               ) -> list[Argument]:
        if weight is None:
            return [-1, *NO_MATRIX, 0]
        return [self._room(products), *matrix_words(weight, bias, channels), columns]
