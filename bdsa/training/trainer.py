"""The training loop, read top to bottom: one for every family, any number of budgets included.

Resume rules (which folder may be resumed is in `bdsa.runs.folder`):
1. last.pt is written after every epoch; a stopped run loses at most one epoch.
2. Everything random in an epoch is seeded from (trainer.seed, epoch), so an epoch replays exactly.
3. The learning rate, the temperature, the noise and the bounds are functions of the step number.
4. Metrics of epochs after the checkpoint's are removed: the resumed run writes them again.
5. The number of processes may differ: a batch is that of all of them (`bdsa.distributed`).
"""
from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

from bdsa import distributed
from bdsa.config.settings import TrainConfig
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.method.awareness import awareness_weights
from bdsa.models import checkpoints
from bdsa.report.progress import duration, progress_bar
from bdsa.runs.folder import RunFolder
from bdsa.runs.selection import epoch_tolerance, is_better
from bdsa.runs.tracker import NoTracker, create_tracker
from bdsa.training.assembly import Parts, assemble
from bdsa.training.device import choose_device
from bdsa.training.evaluation import evaluate
from bdsa.training.results import draw_masks, finish, show
from bdsa.training.step import TrainStep

log = logging.getLogger(__name__)


def train(config: TrainConfig, folder: Path) -> None:
    """Train, or go on training, in `folder`, and leave results there.

    Raises:
        UserError: for bad input, before anything is written.
    """
    distributed.start()
    run = distributed.together(lambda: RunFolder(folder, asdict(config), config.trainer.fresh))
    run.done, run.resumes = distributed.share((run.done, run.resumes))
    if run.done:
        show(run, note="this run is finished; trainer.fresh=true would train it again")
        return
    device = distributed.together(lambda: choose_device(config.trainer))
    distributed.check_devices(device)
    parts = distributed.together(lambda: assemble(config, device))
    run_id = run.open(str(device))
    pictures_every = config.tracker.pictures_every if config.trainer.pictures and parts.budgets.adaptive else 0
    try:
        with contextlib.ExitStack() as stack:
            tracker = distributed.together(lambda: stack.enter_context(create_tracker(
                config.tracker.mode, folder=folder, config=run.config, project=config.tracker.project,
                name=config.name or folder.name, group=config.tracker.group, job_type="train",
                tags=config.tracker.tags, run_id=run_id, tolerance=epoch_tolerance(config.budgets),
                pictures_every=pictures_every)))
            fit(config, parts, run, device, tracker)
            distributed.barrier()  # the others read what rank 0 kept
            finish(config, parts, run, device, tracker)
        show(run, tracker.where)
    except KeyboardInterrupt:
        log.info("stopped; the same command goes on from the last finished epoch")
        raise
    finally:
        run.close()


def fit(config: TrainConfig, parts: Parts, run: RunFolder, device: torch.device, tracker: NoTracker) -> None:
    """All epochs that are not done yet."""
    recipe, budgets, network = config.recipe, parts.budgets, parts.network

    # ----------------------------------------------------------------------------------------------
    # What the loop needs
    for dataset in filter(None, (parts.splits.train, parts.splits.validation, parts.splits.test)):
        dataset.draw()
    loader = parts.loader
    val_loader = eval_loader(limited(parts.splits.validation, config.trainer.limit_eval_images),
                             config.trainer.eval_batch_size, config.data.workers, *distributed.part())
    step = TrainStep(config, parts, device)
    best: dict[str, list[dict]] = {}                            # "raw" and "ema" -> the best epoch's rows
    first_epoch = 0

    # ----------------------------------------------------------------------------------------------
    # Resume, by the rules above
    if run.resumes:
        last = checkpoints.read_checkpoint(run.last)
        network.load_state_dict(last["state_dict"])
        step.load_state_dict(last)
        first_epoch, best = last["epoch"], last["best"]
        log.info("resuming after epoch %d of %d", first_epoch, recipe.epochs)
    else:
        log.info("%s for budgets %s on %s: %s images, %d blocks, %.2f M parameters, %s%s",
                 config.model.name, ", ".join(f"{b:g}" for b in budgets), parts.splits.name,
                 f"{len(parts.splits.train):,}", len(network.adaptive_blocks()),
                 sum(p.numel() for p in network.parameters()) / 1e6, device,
                 f" in {distributed.world()} processes" if distributed.world() > 1 else "")
        for note in (*parts.splits.notes, parts.splits.choice):
            log.info("note: %s", note)
        if recipe.ema_decay is not None and 1 / (1 - recipe.ema_decay) > step.total / recipe.accumulation:
            log.info("note: recipe.ema_decay=%g averages over %s updates and this training has %s: the average stays "
                     "near the start", recipe.ema_decay, f"{1 / (1 - recipe.ema_decay):,.0f}",
                     f"{step.total // recipe.accumulation:,}")
    run.metrics.truncate_after(first_epoch)
    tracker.catch_up(run.metrics.read(), run.training_pictures())
    for kept in step.networks().values():
        distributed.share_state(kept)  # another machine may have drawn other weights

    # ----------------------------------------------------------------------------------------------
    # Epochs
    started = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("training", total=step.total, completed=first_epoch * step.per_epoch)
        for epoch in range(first_epoch, recipe.epochs):
            step.start_epoch(epoch)
            loader.set_epoch(epoch)
            sums: dict[str, torch.Tensor] = {}
            counts: dict[str, int] = {}
            epoch_started = time.monotonic()
            for i, (images, labels) in enumerate(itertools.islice(loader, step.per_epoch)):
                for name, value in step(epoch * step.per_epoch + i, images, labels).items():
                    sums[name] = sums.get(name, 0) + value
                    counts[name] = counts.get(name, 0) + 1
                bar.advance(task)

            # --------------------------------------------------------------------------------------
            # Once an epoch: measure, record, weigh the budgets anew, keep
            totals = distributed.mean_over_ranks(torch.stack([s.double() for s in sums.values()])).tolist()
            means = {name: total / counts[name] for name, total in zip(sums, totals)}
            trained_for = time.monotonic() - epoch_started  # after the line above, which waits for the device
            if not all(map(math.isfinite, means.values())):
                raise distributed.everywhere(
                    f"training diverged in epoch {epoch + 1} (loss {means['total']}): lower recipe.lr={recipe.lr:g} or "
                    f"set recipe.clip_grad=1; the same command goes on from epoch {epoch}")
            done = epoch + 1
            fractions = {n.partition("/")[2]: v for n, v in means.items() if n.startswith("fraction/")}
            train_row = {
                "kind": "train", "epoch": done, "step": done * step.per_epoch,
                "loss": {n: v for n, v in means.items() if "/" not in n}, "fraction": fractions,
                "weight": dict(zip(budgets.names, step.weights)), "lr": step.learning_rate,
                "temperature": step.objective.temperature(epoch), "seconds": trained_for,
                "images_per_second": step.per_epoch * recipe.batch_size / trained_for}
            for kept in step.networks().values():
                distributed.average_statistics(kept)
            rows = {w: evaluate(n, val_loader, budgets, device).rows for w, n in step.networks().items()}
            eval_rows = [{"kind": "eval", "epoch": done, "split": parts.splits.validated_on, "weights": w, **row}
                         for w, measured in rows.items() for row in measured]
            for row in (train_row, *eval_rows):
                run.metrics.append(row)
            if tracker.wants_picture(done):
                tracker.log_training_picture(draw_masks(
                    network, parts.splits.validation, parts.splits, budgets.adaptive,
                    run.training_picture(done), config.trainer.pictures, device))
            tracker.log_train(train_row)
            tracker.log_eval(eval_rows)
            if parts.targets is not None:  # by the weights that are trained, not by their average
                top1 = [r["top1"] for r in rows["raw"]]
                step.weights = awareness_weights(config.awareness.metric, top1, parts.targets)
            for kind, candidate in step.networks().items():
                if is_better(rows[kind], best.get(kind), epoch_tolerance(config.budgets)):
                    best[kind] = rows[kind]
                    checkpoints.save(run.best_of(kind), checkpoints.network_content(
                        candidate, parts.spec, epoch=done, weights=kind, calibrated=False, config=run.config))
            checkpoints.save(run.last, checkpoints.network_content(
                network, parts.spec, epoch=done, best=best, config=run.config, **step.state_dict()))
            left = (time.monotonic() - started) / (done - first_epoch) * (recipe.epochs - done)
            shown = {w: "  ".join(f"{r['name']} {r['top1']:.1f} ({r['conditional_fraction']:.2f})" for r in measured)
                     for w, measured in rows.items()}
            log.info("epoch %*d/%d  loss %.3f  top-1 (fraction)  %s  %.0f images/s  ETA %s",
                     len(str(recipe.epochs)), done, recipe.epochs, means["total"], "  ema ".join(shown.values()),
                     train_row["images_per_second"], duration(left))
