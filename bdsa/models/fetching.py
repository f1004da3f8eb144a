"""Where the weights of a repository of the Hugging Face Hub are found."""
from __future__ import annotations

import re
from pathlib import Path

from bdsa.errors import UserError, first_line

WEIGHTS = "model.safetensors"  # in a repository
PREFIX = "hf-hub:"
NAME = r"[\w.-]+/[\w.-]+"


def weights_of(place: str | Path) -> Path:
    """The file of an address: itself, the weights in a folder that `bdsa.save_for_hub` wrote, or those of the Hub."""
    if str(place).startswith(PREFIX):
        return fetched(str(place))
    path = Path(place)
    return path / WEIGHTS if (path / WEIGHTS).is_file() else path


def fetched(address: str) -> Path:
    """The weights of "hf-hub:owner/name", or of "hf-hub:owner/name@revision", in the Hub's own cache.

    Raises:
        UserError: for another address, or where they cannot be had.
    """
    match = re.fullmatch(rf"{PREFIX}({NAME})(?:@([\w./-]+))?", address)
    if match is None:
        raise UserError(f"'{address}' is not {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(match[1], WEIGHTS, revision=match[2]))
    except Exception as error:  # likewise
        raise UserError(f"{address} cannot be had: {first_line(error)}") from error
