"""Starting a W&B run: online where there is a login, else offline, and what earlier starts of it left behind.

Rules when a run is started again, for example after its machine was lost:
1. The metrics file is the truth; what the run lacks is logged again from it, what it has is not.
2. An online run has what the server says.
3. An offline run goes into one new folder that holds everything, so that `wandb sync` uploads it once and whole: a
   folder that was cut off in mid-record would stop the upload of those behind it. Folders of earlier starts are
   removed, unless they were uploaded; those rows are not written again.
"""
from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bdsa.errors import UserError, unknown

log = logging.getLogger(__name__)

# The values of WANDB_MODE and what they mean; the last two are older spellings.
_WANDB_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "shared": "shared",
                "dryrun": "offline", "run": "online"}
# Seconds to wait for the server; wandb's own 90 would hold every job of a sweep while it is down.
_INIT_TIMEOUT = 30.0


def mode_of_environment() -> str | None:
    """Return what WANDB_MODE asks for, or None; wandb says a wrong one in a page of schema errors."""
    asked = os.environ.get("WANDB_MODE")
    if not asked:
        return None
    if asked not in _WANDB_MODES:
        raise unknown("WANDB_MODE", asked, _WANDB_MODES)
    return _WANDB_MODES[asked]


def start(wandb: Any, mode: str | None, arguments: dict[str, Any]) -> Any:
    """Start a run; an online one that cannot start goes on offline.

    Args:
        wandb: the module, which the caller imports late.
        mode: what WANDB_MODE asks for; None: online where there is a login.
        arguments: of `wandb.init`.

    Raises:
        UserError: for what wandb refuses, such as a project's name with a slash.
    """
    from pydantic import ValidationError  # wandb's, and as slow to import

    settings = _settings(wandb)
    try:
        session = wandb.setup(settings)
        if mode is None:
            mode = session.settings.mode  # the command `wandb offline` leaves its word there
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                mode = "offline"
        if mode in ("online", "shared"):
            return wandb.init(mode=mode, settings=settings, **arguments)
    except ValidationError:  # of the environment: it would be wrong offline too
        raise
    except Exception as error:  # no server, a key that is none, no terminal to ask: training goes on
        log.warning("Weights & Biases cannot start online (%s); this run is recorded offline", error)
        mode = "offline"
        # The session keeps the run id of the failed start in use, and refuses it to the next.
        wandb.teardown()
        wandb.setup(settings)
    try:
        return wandb.init(mode=mode, settings=settings, **arguments)
    except wandb.errors.UsageError as error:
        raise UserError(f"Weights & Biases refuses this run: {error}") from None


def _settings(wandb: Any) -> Any:
    # The console is train.log's: capturing it would upload every move of the progress bar.
    settings: dict[str, Any] = {"silent": True, "console": "off"}
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings["init_timeout"] = _INIT_TIMEOUT
    return wandb.Settings(**settings)


def earlier_starts(folder: Path, run_id: str) -> tuple[list[Path], list[Path]]:
    """The folders in `<folder>/wandb` of earlier starts of a run: (never uploaded, uploaded or online)."""
    local, uploaded = [], []
    for path in sorted((folder / "wandb").glob(f"*run-*-{run_id}")):
        offline = path.name.startswith("offline-") and not list(path.glob("*.wandb.synced"))
        (local if offline else uploaded).append(path)
    return local, uploaded


def last_epoch(folders: list[Path]) -> int:
    """The last epoch that the folders of a run hold, 0 where there is none, by wandb's own reader."""
    last = 0
    for folder in folders:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
        try:
            text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
            last = max(last, int(json.loads(text)["summary"].get("epoch", 0)))
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            log.warning("cannot read %s (%s): epochs that it holds may be uploaded twice", folder, error)
    return last


def remove(folders: list[Path]) -> None:
    """Remove folders of earlier starts, and the link to the latest where it points nowhere then."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        link = folder.parent / "latest-run"
        if link.is_symlink() and not link.exists():
            link.unlink()
