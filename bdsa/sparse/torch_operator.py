"""A program (`bdsa.sparse.program`) as a function of tensors, a torch operator and a module that torch.export takes."""
from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdsa.errors import UserError
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.points import check_mean
from bdsa.sparse.build import Unavailable, extension, library
from bdsa.sparse.compiling import torch_flags
from bdsa.sparse.program import Program, program_of

MESSAGE = 512  # bytes
TORCH = Path(torch.__file__).parent


def run_program(program: Program, images: Tensor, budget: float, per_image: bool = False) -> Tensor:
    """Logits [B, classes] of images, float32 [B, C, H, W] of any strides, with the kernels alone.

    Args:
        per_image: whether the budget is what no image may exceed, not a mean over them.

    Raises:
        UserError: for a budget that the program does not have, and images that it cannot take.
    """
    if images.dim() != 4 or images.dtype != torch.float32 or images.device.type != "cpu":
        raise UserError(f"a program takes float32 images [B, C, H, W] on the CPU, not {images.dtype} "
                        f"{list(images.shape)} on {images.device}")
    logits = torch.empty(len(images), program.classes)
    message = ctypes.create_string_buffer(MESSAGE)
    four = ctypes.c_int64 * 4
    data, taken, given = (ctypes.c_void_p(t.data_ptr()) for t in (program.data, images, logits))
    failed = library().bdsa_network(
        data, ctypes.c_int64(program.data.numel()), taken, four(*images.shape), four(*images.stride()),
        ctypes.c_double(budget), int(per_image), given, torch.get_num_threads(), message, MESSAGE)
    if failed:
        raise UserError(message.value.decode())
    return logits


@functools.cache
def torch_library() -> Path:
    """The library of the operator `bdsa::network`, built and loaded; C++ programs load the same file.

    Raises:
        UserError: where it cannot be built.
    """
    try:
        path = extension("torch", *torch_flags(TORCH), version=torch.__version__)
    except Unavailable as reason:
        raise UserError(f"the torch operator needs the native kernels, which are not here: {reason}") from reason
    torch.ops.load_library(str(path))
    torch.library.register_fake("bdsa::network", lambda images, program, budget, classes, per_image=None:
                                images.new_empty((images.shape[0], classes)))
    return path


class Portable(nn.Module):
    """A sparse network as one operator: torch.export, torch.compile and AOTInductor take it as it is.

        portable = bdsa.portable(network)
        logits = portable(images, torch.tensor(0.5))
        exported = torch.export.export(portable, (images, torch.tensor(0.5)))
        exported = torch.export.export(portable, (images, torch.tensor(0.5), torch.tensor(True)))

    Args:
        program: of the network.
        per_image: what a call means that does not say; see `forward`.
    """

    program: Tensor
    per_image: Tensor | None

    def __init__(self, program: Program, per_image: bool = False) -> None:
        super().__init__()
        torch_library()
        self.budgets, self.classes = program.budgets, program.classes
        self.register_buffer("program", program.data)
        self.register_buffer("per_image", torch.tensor(True) if per_image else None, persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the operator, in whichever process a copy or a pickled module comes to."""
        torch_library()
        super().__setstate__(state)

    def forward(self, images: Tensor, budget: Tensor, per_image: Tensor | None = None) -> Tensor:
        """Logits [B, classes].

        Args:
            images: float32 [B, C, H, W].
            budget: one of `budgets`, a tensor of one number; any within the program's reach, if it has one.
            per_image: a tensor of one bool: the budget is what no image may exceed, not a mean over images. None: as
                the module was made.
        """
        asked = self.per_image if per_image is None else per_image
        return call_network(images, self.program, budget, self.classes, asked)


def call_network(images: Tensor, program: Tensor, budget: Tensor, classes: int, per_image: Tensor | None) -> Tensor:
    """The operator; a graph has its last input only where that is needed."""
    further = () if per_image is None else (per_image,)
    return torch.ops.bdsa.network(images, program, budget, classes, *further)


def portable(network: AdaptiveNetwork, budgets: Sequence[float] | None = None, precision: str = "float32",
             between: bool = False, per_image: bool | None = None, cascade: bool | None = None,
             extrapolate: bool | None = None) -> Portable:
    """A network in evaluation mode as one torch operator; see `program_of`.

    Args:
        per_image: whether budgets are what no image may exceed where a call does not say; None: as the network's
            attribute says.
        cascade: whether budgets are what a cascade costs as a mean over images; None: likewise.
        extrapolate: whether budgets below the smallest trained one are allowed; None: likewise.
    """
    made = program_of(network, budgets, precision, between, cascade, extrapolate)
    exactly = network.per_image if per_image is None else per_image
    if made.cascade:
        check_mean({"per_image": exactly})
    return Portable(made, exactly)
