"""Names that settings and code share."""
from __future__ import annotations

from bdsa.errors import unknown

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
EXECUTIONS = ("masked", "sparse", "auto")  # ways to run a budget; see AdaptiveNetwork.execution
DEVICES = ("auto", "cpu", "cuda")


def check_device(value: str) -> None:
    """Raise UserError for a device that is neither of DEVICES nor a numbered one of them, such as cuda:1."""
    if value.split(":")[0] not in DEVICES:
        raise unknown("device", value, DEVICES)
