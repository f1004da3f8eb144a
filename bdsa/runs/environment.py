"""What a result depends on beside its settings: command, versions, commit, processor."""
from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from bdsa.config.names import SEARCHES
from bdsa.machine import processor

PACKAGES = ("bdsa", "torch", "torchvision", "timm", "hydra-core", "omegaconf", "wandb", "numpy")


def environment(device: str) -> dict[str, Any]:
    """What a result depends on beside the settings: command, versions, commit, processor, device."""
    import torch

    return {"command": command(), "launch": launch(), "commit": commit(),
            "python": platform.python_version(), "versions": versions(PACKAGES), "platform": platform.platform(),
            "processor": processor(), "threads": torch.get_num_threads(), "device": device,
            "accelerator": torch.cuda.get_device_name(device) if device.startswith("cuda") else None}


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package; None of one that is not here."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def in_sweep() -> bool:
    """Whether this is a job of a multirun."""
    return HydraConfig.initialized() and OmegaConf.select(HydraConfig.get(), "job.num") is not None


def command() -> str:
    """The command line that goes on with this run; of a job of a sweep, the one that makes it alone.

    Without trainer.fresh=true, which belongs to the run before: given again it would discard this one.
    """
    if in_sweep():
        job = HydraConfig.get()
        name = "bdsa-train" if job.job.config_name in ("train", "pipeline") else f"bdsa-{job.job.config_name}"
        words = OmegaConf.to_container(job.overrides.task)
        if job.runtime.choices.get("hydra/sweeper") in SEARCHES and any(word.startswith("sweep=") for word in words):
            words.append("hydra.mode=RUN")  # the preset would begin a search of its own
    else:
        name, words = Path(sys.argv[0]).name, sys.argv[1:]
    return shlex.join([name, *(word for word in words if not word.lstrip("+").startswith("trainer.fresh="))])


def launch() -> dict[str, str]:
    """Who may start this process again, to go on with what it began: a job of Slurm, an agent of torchrun."""
    found = {"slurm": os.environ.get("SLURM_JOB_ID", "")}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        found["torchrun"] = f"{os.environ['TORCHELASTIC_RUN_ID']} {platform.node()} {os.getppid()} {_began_at()}"
    return {launcher: who for launcher, who in found.items() if who}


def began(before: dict[str, Any] | None) -> bool:
    """Whether this is a restart, by Slurm or torchrun, of what began the run that left this environment.

    An agent of torchrun gives its command once, so that whoever comes after it is a restart. In a job of Slurm several
    commands may be given: a count of restarts says whether this is one.
    """
    kept, now = (before or {}).get("launch"), launch()
    same = {launcher for launcher in now if isinstance(kept, dict) and kept.get(launcher) == now[launcher]}
    counts = [os.environ.get(f"{launcher}_RESTART_COUNT") for launcher in ("SLURM", "TORCHELASTIC")]
    return "torchrun" in same or ("slurm" in same and any(count not in (None, "", "0") for count in counts))


def _began_at() -> str:
    """When the process above this one began, where the system says it: its number may be another's later."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "+" where files differ from it."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True, timeout=10).stdout.strip()
    try:
        if not git("ls-files", Path(__file__).name):  # installed inside somebody else's checkout
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
