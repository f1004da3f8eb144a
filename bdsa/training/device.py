"""The device that a run takes, and what it is good at."""
from __future__ import annotations

import torch

from bdsa.config.settings import TrainerConfig
from bdsa.distributed import world
from bdsa.errors import UserError
from bdsa.machine import multiplies_bfloat16, processor
from bdsa.ranks import local_rank


def choose_device(config: TrainerConfig) -> torch.device:
    """The device that the config names, or the best one that is there; also sets the CPU's threads.

    Of several processes on a machine, each takes the GPU of its local rank.

    Raises:
        UserError: for a device that this machine does not have, or that several processes cannot share.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.device == "auto":
        return own_gpu() if torch.cuda.is_available() else torch.device("cpu")
    if world() > 1 and config.device.startswith("cuda:"):
        raise UserError(f"trainer.device={config.device} names one GPU for {world()} processes: use trainer.device=cuda"
                        f" and CUDA_VISIBLE_DEVICES")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.device={config.device} is not available on this machine: use trainer.device=cpu")
    if config.device.startswith("cuda:") and int(config.device[5:]) >= (count := torch.cuda.device_count()):
        raise UserError(f"trainer.device={config.device} is not available on this machine, which has cuda:0 to "
                        f"cuda:{count - 1}")
    if config.device == "cuda":
        return own_gpu()
    device = torch.device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # pinned memory and what libraries choose by themselves use the current one
    return device


def own_gpu() -> torch.device:
    """The current GPU, or that of this process's local rank; a launcher may also show each process its own alone."""
    if world() == 1:
        return torch.device("cuda")
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)  # NCCL and the loaders' pinned memory use the current one
    return device


def whereabouts(device: torch.device, config: TrainerConfig) -> str:
    """Where and how a training goes on, for its log: "AMD EPYC, 2 threads, bfloat16, compiled"."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    threads = f"{(n := torch.get_num_threads())} thread{'s' * (n > 1)}" if device.type == "cpu" else ""
    precision = "float32" if config.amp == "none" else config.amp
    return ", ".join(filter(None, (machine, threads, precision, "compiled" if config.compile else "")))


def slow_choices(device: torch.device, config: TrainerConfig) -> list[str]:
    """What a user should know of the settings on this machine: sentences."""
    if device.type == "cpu" and config.amp == "bfloat16" and not multiplies_bfloat16():
        return ["this processor has no products of bfloat16, and PyTorch's replacements may take ten times as long as "
                "float32: trainer.amp=none; a named training that was begun goes on with it"]
    return []
