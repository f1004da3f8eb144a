"""A training run: check, assemble, train, finish. The epochs are in `bdsa.training.fit`."""
from __future__ import annotations

import contextlib
import logging
from dataclasses import asdict
from pathlib import Path

from bdsa import distributed
from bdsa.config.settings import TrainConfig
from bdsa.runs.folder import RunFolder
from bdsa.runs.selection import epoch_tolerance
from bdsa.runs.tracker import create_tracker
from bdsa.training.assembly import assemble
from bdsa.training.device import choose_device
from bdsa.training.fit import Fit
from bdsa.training.results import finish, show

log = logging.getLogger(__name__)


def train(config: TrainConfig, folder: Path) -> None:
    """Train, or go on training, in `folder`, and leave results there.

    Raises:
        UserError: for bad input, before anything is written.
    """
    distributed.start()
    run = distributed.together(lambda: RunFolder(folder, asdict(config), config.trainer.fresh))
    try:
        distributed.together(run.hold)
        run.done, run.resumes = distributed.share((run.done, run.resumes))
        if run.done:
            show(run, note="this run is finished; trainer.fresh=true would train it again")
        else:
            _train(config, folder, run)
    except KeyboardInterrupt:
        again = ", without trainer.fresh=true," if config.trainer.fresh else ""
        log.info("stopped; the same command%s goes on from the last finished epoch", again)
        raise
    finally:
        run.close()


def _train(config: TrainConfig, folder: Path, run: RunFolder) -> None:
    """Train in a folder that is held."""
    if not run.resumes:
        distributed.together(config.recipe.check_rates)
    device = distributed.together(lambda: choose_device(config.trainer))
    distributed.check_devices(device)
    assembly = distributed.together(lambda: assemble(config, device, run.resumes))
    run_id = run.open(str(device))
    pictures_every = config.tracker.pictures_every if config.trainer.pictures and assembly.budgets.adaptive else 0
    with contextlib.ExitStack() as stack:
        tracker = distributed.together(lambda: stack.enter_context(create_tracker(
            config.tracker.mode, config.tracker.also, folder=folder, config=run.config, project=config.tracker.project,
            name=config.name or folder.name, group=config.tracker.group, job_type="train",
            tags=config.tracker.tags, run_id=run_id, tolerance=epoch_tolerance(config.budgets),
            pictures_every=pictures_every)))
        Fit(config, assembly, run, device, tracker)()
        distributed.barrier()  # the others read what rank 0 kept
        finish(config, assembly, run, device, tracker)
    show(run, tracker.where)
