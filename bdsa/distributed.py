"""Collectives of a training by several processes; in one process each of them does nothing.

The rules that make any number of processes train the same network:
1. A batch is the batch of all processes; rank r holds its r-th part, and all parts are of one size.
2. Everything random that belongs to images is drawn for the whole batch, by generators that are seeded
   alike, and each rank takes its rows.
3. A loss is the mean over the rank's images. Where it is not linear in a mean, the mean is that of the
   whole batch, with the gradient of the rank's own part (`with_global_means`).
4. Gradients are averaged over the ranks once per optimiser step (`bdsa.training.averaging`).
5. Rank 0 alone writes and speaks. What it alone knows is told to the others (`share`), and an error that
   any rank finds while a run is set up is raised by all (`together`).
"""
from __future__ import annotations

import atexit
import platform
import signal
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bdsa import ranks
from bdsa.errors import UserError, first_line

T = TypeVar("T")


def start() -> None:
    """Join the processes that the launcher started; they stay joined until this one ends.

    Tensors on the CPU travel by gloo, those on a GPU by NCCL.

    Raises:
        UserError: where the launcher's environment does not say who they are, or how to meet.
    """
    ranks.check()
    if not ranks.is_main():
        # Ctrl-C reaches every rank; rank 0 says so, and a rank that waits for it in a collective would not.
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # at each job of a sweep: the one before has put it back
    if ranks.world() == 1 or dist.is_initialized():
        return
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    except (ValueError, dist.DistError) as error:
        raise UserError(f"WORLD_SIZE={ranks.world()}, and the processes do not find each other "
                        f"({first_line(error)}); {ranks.ALONE}") from error
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of joined processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def shard() -> tuple[int, int]:
    """(rank, world): which part of every batch this process holds."""
    return rank(), world()


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))  # gloo's, on the CPU: it needs no GPU to be chosen yet


def share(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """The values of all ranks, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """Do `work` on rank 0, then on the others; all return, or all raise the first UserError.

    In this order, because what rank 0 downloads the others find. `work` must hold no collective: a rank
    with an error would not reach it. The error's `everywhere` says that every rank knows it.
    """
    if world() == 1:
        return work()
    result, error = None, None
    for main_turn in (True, False):
        if ranks.is_main() == main_turn:
            try:
                result = work()
            except UserError as met:
                error = met
        said = next((text for text in gather(None if error is None else str(error)) if text is not None), None)
        if said is not None:
            raise everywhere(said) from error
    return result


def everywhere(message: str) -> UserError:
    """An error that every rank knows."""
    error = UserError(message)
    error.everywhere = True
    return error


def check_devices(device: torch.device) -> None:
    """Raise UserError on all ranks if two of them have the same GPU, with which NCCL would hang or fail."""
    if world() > 1 and device.type == "cuda":
        used = gather((platform.node(), str(torch.cuda.get_device_properties(device).uuid)))
        if len(set(used)) < len(used):
            raise everywhere(f"{len(used)} processes share {len(set(used))} GPUs: start one process a GPU, such as "
                             f"with torchrun --nproc-per-node gpu, or set trainer.device=cpu")


def exchanged(value: Tensor, other: int) -> Tensor:
    """The tensor of rank `other`, which takes this rank's in return; both are of one shape."""
    if other == rank():
        return value
    given = value.contiguous()
    taken = torch.empty_like(given)
    both = [dist.P2POp(dist.isend, given, other), dist.P2POp(dist.irecv, taken, other)]
    for transfer in dist.batch_isend_irecv(both):
        transfer.wait()
    return taken


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every rank's tensor; no gradient."""
    if world() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of every rank's tensor; no gradient."""
    return sum_over_ranks(value) / world() if world() > 1 else value


def with_global_means(*values: Tensor) -> tuple[Tensor, ...]:
    """Shift values of this rank's images so that their mean is that of the whole batch.

    The gradient stays that of the rank's own images: averaged over the ranks, it is the gradient of
    the whole batch's mean.

    Args:
        values: [B, ...] each, of one dtype.
    """
    if world() == 1:
        return values
    own = torch.cat([v.detach().mean(dim=0).flatten() for v in values])
    shifts = (mean_over_ranks(own) - own).split([v[0].numel() for v in values])
    return tuple(v + s.view(v.shape[1:]) for v, s in zip(values, shifts))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks; call it once, before clipping and stepping.

    All ranks train the same budgets in the same step, so the same gradients are None on all of them, and they stay
    None, as in one process. bdsa-train does it while the backward pass runs (`bdsa.training.averaging`).
    """
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({g.dtype for g in gradients}, key=str):
        group = [g for g in gradients if g.dtype == dtype]
        unpack(mean_over_ranks(torch.cat([g.flatten() for g in group])), group)


def average_statistics(network: nn.Module) -> None:
    """Average the running statistics that each rank gathered from its own images."""
    floating = [b for b in network.buffers() if b.is_floating_point()]
    if world() > 1 and floating:
        unpack(mean_over_ranks(torch.cat([b.flatten() for b in floating])), floating)


def share_state(network: nn.Module) -> None:
    """Give every rank the weights and statistics of rank 0."""
    if world() > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


def unpack(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy a flat tensor's values back into the tensors that it was made of."""
    with torch.no_grad():
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors])):
            tensor.copy_(values.view(tensor.shape))
