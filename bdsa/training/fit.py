"""The epochs of a training, read top to bottom: one loop for every family, any number of budgets included.

Resume rules (which folder may be resumed is in `bdsa.runs.folder`):
1. last.pt is written after every epoch; a stopped run loses at most one epoch.
2. Everything random in an epoch is seeded from (trainer.seed, epoch), so an epoch replays exactly.
3. The learning rate, the temperature, the noise and the bounds are functions of the step number.
4. Metrics of epochs after the checkpoint's are removed: the resumed run writes them again.
5. The number of processes may differ: a batch is that of all of them (`bdsa.distributed`).
"""
from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bdsa import distributed, ranks
from bdsa.config.settings import TrainConfig
from bdsa.data.class_names import shortened
from bdsa.data.fingerprint import difference
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.errors import UserError, first_line
from bdsa.method.awareness import awareness_weights
from bdsa.method.macs import count_type
from bdsa.models import checkpoints
from bdsa.models.digest import advice
from bdsa.models.weights import load_completely
from bdsa.report.progress import duration, progress_bar
from bdsa.runs.folder import RunFolder
from bdsa.runs.selection import BestEpochs, epoch_tolerance
from bdsa.runs.tracker import NoTracker
from bdsa.training.assembly import Assembly
from bdsa.training.device import slow_choices, whereabouts
from bdsa.training.evaluation import evaluate
from bdsa.training.results import draw_masks, without_fail
from bdsa.training.step import TrainStep

log = logging.getLogger(__name__)

Row = dict[str, Any]


class Fit:
    """A training from its first epoch, or from the checkpoint of a stopped one, to its last.

    Args:
        config, assembly: the training.
        run: its folder, opened.
        device: where the network is.
        tracker: a view of what is recorded.
    """

    def __init__(self, config: TrainConfig, assembly: Assembly, run: RunFolder, device: torch.device,
                 tracker: NoTracker) -> None:
        self.config, self.assembly, self.run, self.device, self.tracker = config, assembly, run, device, tracker
        self.network, self.budgets, self.splits = assembly.network, assembly.budgets, assembly.splits
        for dataset in filter(None, (self.splits.train, self.splits.validation, self.splits.test)):
            dataset.draw()
        self.validation = eval_loader(limited(self.splits.validation, config.trainer.limit_eval_images),
                                      config.trainer.eval_batch_size, config.data.workers, *distributed.shard())
        self.step = TrainStep(config, assembly, device)
        self.best = BestEpochs(epoch_tolerance(config.budgets))
        self.images = self.splits.fingerprint()
        self.done = 0  # epochs
        self.lost: dict[Path, str] = {}  # best networks that a stopped training lacks -> what takes their place

    def __call__(self) -> None:
        """Train all epochs that are not done yet."""
        self.resume() if self.run.resumes else self.introduce()
        log.info("on %s", whereabouts(self.device, self.config.trainer))
        for note in slow_choices(self.device, self.config.trainer):
            log.warning("note: %s", note)
        self.run.metrics.truncate_after(self.done)
        if ranks.is_main():  # who may be rewriting the file meanwhile; the others mirror nothing
            self.tracker.catch_up(self.run.metrics.read(), self.run.training_pictures())
        for kept in self.step.networks().values():
            distributed.share_state(kept)  # another machine may have drawn other weights
        started, before = time.monotonic(), self.done
        with progress_bar() as bar:
            task = bar.add_task("training", total=self.step.total, completed=self.done * self.step.per_epoch)
            while self.done < self.config.recipe.epochs:
                trained = self.epoch(lambda: bar.advance(task))
                measured = self.measure()
                self.record(trained, measured)
                self.keep(measured)
                left = self.config.recipe.epochs - self.done
                self.say(trained, measured, (time.monotonic() - started) / (self.done - before) * left)

    # ----------------------------------------------------------------------------------------------
    # Before the first epoch

    def resume(self) -> None:
        """Go on from last.pt, by the rules above."""
        last = distributed.together(self.restore)
        for split, images in self.images.items():
            if changed := difference(last.get("images", {}).get(split), images):
                raise distributed.everywhere(
                    f"the images of {split} are not those that {self.run.path} was trained on: {changed}. Put them "
                    f"back, or train anew with trainer.fresh=true or another name=...")
        log.info("resuming after epoch %d of %d", self.done, self.config.recipe.epochs)
        for lost, instead in self.lost.items():
            log.warning("note: %s, the network of the best epoch so far, is not that which last.pt names: %s takes its "
                        "place", lost, instead)
        for note in (*(f"it goes on with {moved}" for moved in self.run.moved), *self.assembly.notes):
            log.info("note: %s", note)

    def restore(self) -> dict[str, Any]:
        """Load last.pt into network and step, and return its content.

        Raises:
            UserError: if it is damaged, lacks something or was trained for other classes.
        """
        last = checkpoints.read_checkpoint(self.run.last)
        if last.get("classes", self.splits.classes) != self.splits.classes:
            raise UserError(f"{self.run.last} was trained for the classes {shortened(last['classes'])}, the data have "
                            f"{shortened(self.splits.classes)} now: another name=... trains anew on these")
        load_completely(self.network, last["state_dict"], self.run.last)
        try:
            self.step.load_state_dict(last)
            self.done, self.best = last["epoch"], BestEpochs(self.best.tolerance, last["best"])
            epochs = {kind: rows[0]["epoch"] for kind, rows in self.best.rows.items()}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise UserError(f"{self.run.last} lacks what a stopped training goes on from ({first_line(error)}); "
                            f"{advice(self.run.last)}") from error
        for kind, epoch in epochs.items():
            self.find_best(kind, epoch)
        return last

    def find_best(self, kind: str, epoch: int) -> None:
        """Hold a best network against the epoch that last.pt names, and take its rows from its own file where it is of
        another: a stop between the two writes leaves a later one, a copy that was made then an earlier one.

        Raises:
            UserError: if it is damaged, or not there and no epoch is left.
        """
        path = self.run.best_of(kind)
        kept = checkpoints.read_checkpoint(path) if path.exists() else {}
        if kept.get("epoch") == epoch:
            return
        if rows := kept.get("best", {}).get(kind):
            self.best.rows[kind] = rows
            if kept["epoch"] < epoch:
                self.lost[path] = f"that of epoch {kept['epoch']}"
            return
        if self.done == self.config.recipe.epochs:
            what = f"is of epoch {kept.get('epoch')}, not {epoch}" if kept else "is not there any more"
            raise UserError(f"{path}, the network that is the run's result, {what}, and no epoch is "
                            f"left to take its place: put it back, or train anew with trainer.fresh=true")
        del self.best.rows[kind]
        self.lost[path] = "the best of the epochs that follow"

    def introduce(self) -> None:
        """Say what is trained on what."""
        recipe = self.config.recipe
        log.info("%s for budgets %s on %s: %s images, %d blocks, %.2f M parameters, %s%s",
                 self.config.model.name, ", ".join(f"{b:g}" for b in self.budgets), self.splits.name,
                 f"{len(self.splits.train):,}", len(self.network.adaptive_blocks()),
                 sum(p.numel() for p in self.network.parameters()) / 1e6, self.device,
                 f" in {distributed.world()} processes" if distributed.world() > 1 else "")
        for note in (*self.splits.notes, self.splits.choice):
            log.info("note: %s", note)
        updates = self.step.total // recipe.accumulation
        if recipe.ema_decay is not None and 1 / (1 - recipe.ema_decay) > self.step.total / recipe.accumulation:
            log.info("note: recipe.ema_decay=%g averages over %s updates and this training has %s: the average stays "
                     "near the start", recipe.ema_decay, f"{1 / (1 - recipe.ema_decay):,.0f}", f"{updates:,}")

    # ----------------------------------------------------------------------------------------------
    # An epoch

    def epoch(self, on_batch: Callable[[], None]) -> Row:
        """Train one epoch and count it; returns its "train" row of the metrics file.

        Raises:
            UserError: if a loss is no longer a finite number.
        """
        step, epoch = self.step, self.done
        step.start_epoch(epoch)
        self.assembly.loader.set_epoch(epoch)
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}
        started = time.monotonic()
        for i, (images, labels) in enumerate(itertools.islice(self.assembly.loader, step.per_epoch)):
            for name, value in step(epoch * step.per_epoch + i, images, labels).items():
                sums[name] = sums.get(name, 0) + value
                counts[name] = counts.get(name, 0) + 1
            on_batch()
        totals = distributed.mean_over_ranks(torch.stack([s.to(count_type(s.device)) for s in sums.values()])).tolist()
        means = {name: total / counts[name] for name, total in zip(sums, totals)}
        seconds = time.monotonic() - started  # after the line above, which waits for the device
        if not all(map(math.isfinite, means.values())):
            raise self.diverged(f"loss {means['total']}")
        if not all(map(self.is_finite, step.networks().values())):  # the last update may have done it
            raise self.diverged("weights that are infinite or no numbers")
        self.done += 1
        return {"kind": "train", "epoch": self.done, "step": self.done * step.per_epoch,
                "loss": {n: v for n, v in means.items() if "/" not in n},
                "fraction": {n.partition("/")[2]: v for n, v in means.items() if n.startswith("fraction/")},
                "weight": dict(zip(self.budgets.names, step.weights)), "lr": step.learning_rate,
                "temperature": step.losses.temperature(epoch), "seconds": seconds,
                "images_per_second": step.per_epoch * self.config.recipe.batch_size / seconds}

    @staticmethod
    def is_finite(network: torch.nn.Module) -> bool:
        """Whether all weights and statistics are numbers, on every rank."""
        found = torch.stack([torch.isfinite(t).all() for t in network.state_dict().values() if t.is_floating_point()])
        return bool(distributed.mean_over_ranks(found.all().float()) == 1)

    def diverged(self, what: str) -> UserError:
        """The error of a training that cannot go on; the same command would come to it again."""
        begin = (f", which may begin from epoch {self.done} of this one: model.start={self.run.last}" if self.done
                 else "")
        return distributed.everywhere(
            f"training diverged in epoch {self.done + 1} ({what}), and would again: lower recipe.lr="
            f"{self.config.recipe.lr:g} or set recipe.clip_grad=1 in another run, name=...{begin}")

    def measure(self) -> list[Row]:
        """Evaluate every kind of weights on the validating split; returns their "eval" rows of the metrics file."""
        networks = self.step.networks()
        for kept in networks.values():
            distributed.average_statistics(kept)
        return [{"kind": "eval", "epoch": self.done, "split": self.splits.validated_on, "weights": weights, **row}
                for weights, network in networks.items()
                for row in evaluate(network, self.validation, self.budgets, self.device).rows]

    def record(self, trained: Row, measured: list[Row]) -> None:
        """Write the epoch to the metrics file, and let the tracker mirror it."""
        for row in (trained, *measured):
            self.run.metrics.append(row)
        if self.tracker.wants_picture(self.done):
            trainer = self.config.trainer
            with without_fail(f"the masks after epoch {self.done}"):
                self.tracker.log_training_picture(draw_masks(
                    self.network, self.splits.validation, self.splits, self.budgets.adaptive,
                    self.run.training_picture(self.done), trainer.pictures, trainer.eval_batch_size, self.device))
        self.tracker.log_train(trained)
        self.tracker.log_eval(measured)

    def keep(self, measured: list[Row]) -> None:
        """Weigh the budgets anew, and save the best networks and what a resumed run needs."""
        if self.assembly.targets is not None:  # by the weights that are trained, not by their average
            top1 = [row["top1"] for row in measured if row["weights"] == "raw"]
            self.step.weights = awareness_weights(self.config.awareness.metric, top1, self.assembly.targets)
        networks, spec = self.step.networks(), self.assembly.spec
        shared = {"epoch": self.done, "classes": self.splits.classes, "image_size": self.splits.image_size,
                  "config": self.run.config}
        for kind in self.best.update(measured):
            checkpoints.save(self.run.best_of(kind), checkpoints.network_content(
                networks[kind], spec, weights=kind, calibrated=False, best={kind: self.best.rows[kind]}, **shared))
        checkpoints.save(self.run.last, checkpoints.network_content(
            self.network, spec, best=self.best.rows, images=self.images, **shared, **self.step.state_dict()))

    def say(self, trained: Row, measured: list[Row], seconds_left: float) -> None:
        """Print and log a line."""
        shown = {w: "  ".join(f"{r['name']} {r['top1']:.1f} ({r['conditional_fraction']:.2f})" for r in measured
                              if r["weights"] == w) for w in self.step.networks()}
        epochs = self.config.recipe.epochs
        log.info("epoch %*d/%d  loss %.3f  top-1 (fraction)  %s  %.0f images/s  ETA %s", len(str(epochs)), self.done,
                 epochs, trained["loss"]["total"], "  ema ".join(shown.values()), trained["images_per_second"],
                 duration(seconds_left))
