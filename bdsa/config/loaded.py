"""Which plug-ins are loaded; apart from the loading, so that opening a checkpoint needs no Hydra."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdsa.errors import UserError

LOADED: dict[Path, list[tuple[str, str]]] = {}  # plug-in -> the (group, option) that it brought


def with_options(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """Groups and their options, with those that plug-ins have brought."""
    brought = [pair for pairs in LOADED.values() for pair in pairs]
    return {group: sorted([*names, *(n for g, n in brought if g == group)]) for group, names in groups.items()}


def require(content: Mapping[str, Any] | None, source: object) -> None:
    """Raise UserError if a checkpoint's run had a plug-in that is not loaded here; called where a name is unknown.

    Args:
        content: the checkpoint.
        source: what to call it.
    """
    recorded = ((content or {}).get("config") or {}).get("plugins") or []
    here = {path.name for path in LOADED}
    if lacking := [p for p in recorded if Path(p).name not in here]:
        paths = ",".join(lacking)
        raise UserError(f"{source} was trained with the plug-in {', '.join(lacking)}, which is not loaded: give "
                        f"plugins=[{paths}], or in code bdsa.load_plugins; a checkpoint's word alone runs no code")
