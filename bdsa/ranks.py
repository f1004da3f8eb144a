"""Which of how many processes this is, as its launcher says in the environment. Imports nothing heavy.

torchrun, and every launcher that follows it, exports RANK, LOCAL_RANK and WORLD_SIZE; without the last of them a
process is alone, whatever RANK a cluster gave it. The collectives are in `bdsa.distributed`.
"""
from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

from bdsa.errors import UserError

ALONE = "start them with torchrun --nproc-per-node N, or unset WORLD_SIZE for a process alone"
GRACE = 10.0  # seconds that rank 0 gets to say what is wrong before the others end


def rank() -> int:
    """Number of this process, 0 being the one that writes and speaks."""
    return _number("RANK", 0) if "WORLD_SIZE" in os.environ else 0


def is_main() -> bool:
    """Whether this process is the one that writes and speaks; what writes or prints asks this itself."""
    return rank() == 0 or world() == 1


def check() -> None:
    """Raise UserError for a rank that its number of processes does not have: nobody, or two, would write and speak."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE") if "WORLD_SIZE" in os.environ else ():
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(f"{name}={os.environ[name]} is no number of a process, or of processes; {ALONE}")
    if not 0 <= rank() < world():
        raise UserError(f"RANK={rank()} and WORLD_SIZE={world()}: of {world()} processes the ranks are 0 to "
                        f"{world() - 1}; {ALONE}")


def local_rank() -> int:
    """Number of this process on its machine: which GPU is its own."""
    return _number("LOCAL_RANK", rank())


def world() -> int:
    """Number of processes on all machines."""
    return _number("WORLD_SIZE", 1)


def local_world() -> int:
    """Number of processes on this machine, which share its cores."""
    return _number("LOCAL_WORLD_SIZE", world())


def _number(name: str, default: int) -> int:
    """What the environment says, if it is a number; `check` refuses what is none, for which somebody must speak."""
    said = os.environ.get(name, "")
    return int(said) if said.isdecimal() else default


def in_submitted_job() -> bool:
    """Whether submitit started this process, on Slurm or locally."""
    return "SUBMITIT_EXECUTOR" in os.environ


def put_back(error: BaseException) -> bool:
    """Whether an error is how submitit ends a job at its time limit, which Slurm will start again."""
    return isinstance(error, SystemExit) and error.code == -1 and in_submitted_job()


def adopt_submitted_job() -> None:
    """In a job of submitit's, make its task a rank as torchrun would; elsewhere do nothing.

    The GPUs stay visible to all ranks of a machine, as under torchrun: NCCL reaches its neighbours'
    memory directly only then.
    """
    if in_submitted_job() and "WORLD_SIZE" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment  # an extra; only its own jobs get here

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def exit_failed(at_once: bool) -> NoReturn:
    """Exit with code 1.

    Launchers end all ranks as soon as one has ended, so the others must not end before rank 0 has
    printed an error that all of them found. `at_once` is for a rank that said its error itself.
    """
    if not is_main() and not at_once:
        time.sleep(GRACE)
    sys.exit(1)
