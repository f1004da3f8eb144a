"""The end of a run: calibrate the best network, measure it on the reported split, write and show it."""
from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from bdsa.budgets import DENSE, Budget, Budgets
from bdsa.config.image_size import height_width
from bdsa.config.settings import TrainConfig
from bdsa.data.datasets import Splits
from bdsa.data.loaders import eval_loader, train_loader
from bdsa.data.subset import limited
from bdsa.data.transforms import pixels
from bdsa.distributed import shard, share, share_state
from bdsa.errors import UserError, first_line
from bdsa.method.whole_batch import use_own_part
from bdsa.models import checkpoints
from bdsa.models.digest import state_digest
from bdsa.models.filling import fill_in, hold
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.weights import load_completely
from bdsa.ranks import is_main
from bdsa.report.pictures.mask_set import write_mask_set
from bdsa.report.pictures.masks import MaskColumn, mask_picture
from bdsa.report.pictures.run import accuracy_cost_picture, curves_picture, density_picture
from bdsa.report.results_table import print_table
from bdsa.runs.contents import MASK_SET, read_results
from bdsa.runs.files import write_json
from bdsa.runs.folder import RunFolder
from bdsa.runs.output import LastingOutput
from bdsa.runs.tracker import NoTracker
from bdsa.training.assembly import Assembly, calibration_batches
from bdsa.training.calibration import calibrate_dense_statistics, calibrate_thresholds
from bdsa.training.cascade import calibrate_confidence, unseen_batches
from bdsa.training.curves import budgets_between, calibrate_curves
from bdsa.training.evaluation import Evaluation, evaluate
from bdsa.training.run_latency import add_latency, latency_line
from bdsa.training.teachers import self_teacher

log = logging.getLogger(__name__)


def finish(config: TrainConfig, assembly: Assembly, run: RunFolder, device: torch.device, tracker: NoTracker) -> None:
    """Turn the best checkpoints into the run's result.

    The result is the averaged network where there is one (`recipe.ema_decay`): results.json, its rows and
    the pictures describe it. The raw weights' rows stand beside them, under "raw".
    """
    network, splits = assembly.network, assembly.splits
    dataset = limited(getattr(splits, splits.reported), config.trainer.limit_eval_images)
    kept = ("raw",) if config.recipe.ema_decay is None else ("raw", "ema")
    measured = {w: _measure_best(config, assembly, run.best_of(w), dataset, device) for w in kept}
    results, evaluation = measured[kept[-1]]  # its network is the one that `assembly` now holds
    if len(kept) > 1:
        results["raw"] = {key: measured["raw"][0][key] for key in ("epoch", "rows")}
    if not is_main():
        return
    if config.trainer.latency:  # after the checkpoints are written: two runs alike differ in their times
        add_latency(results, network, dataset, device)
    rows = [{"weights": w, **row} for w, (made, _) in measured.items() for row in made["rows"]]
    if config.trainer.pictures:
        pictures = {"curves": run.pictures / "curves.png"}
        with without_fail("the curves"):
            curves_picture(run.metrics.read(), pictures["curves"])
        with without_fail("the pictures of the result"):
            pictures |= draw(network, dataset, splits, evaluation, run.pictures, config.trainer.pictures,
                             config.trainer.eval_batch_size, device)
        tracker.log_pictures({name: path for name, path in pictures.items() if path.exists()})
    tracker.log_table(rows, {key: results[key] for key in ("epoch", "split", "parameters", "dense_macs")})
    write_json(run.results_file, results)  # last: it marks the run as finished


def _measure_best(config: TrainConfig, assembly: Assembly, path: Path, dataset: Dataset,
                  device: torch.device) -> tuple[dict, Evaluation]:
    """Calibrate the network of a best checkpoint, measure it, and write both back; `assembly.network` becomes it."""
    best = checkpoints.read_checkpoint(path)
    hold(assembly.network, Budgets(best["model"]["budgets"]))  # filled in already, or not yet
    load_completely(assembly.network, best["state_dict"], path)
    assembly.network.curves = checkpoints.fitting_curves(best.get("curves") or {}, assembly.network, path)
    assembly.network.confidence = checkpoints.fitting_confidence(best.get("confidence"), assembly.network, path)
    if config.recipe.ema_decay is not None:
        log.info("%s weights, epoch %d:", "averaged" if best["weights"] == "ema" else "raw", best["epoch"])
    if not best["calibrated"]:
        _calibrate(config, assembly, device)
    loader = eval_loader(dataset, config.trainer.eval_batch_size, config.data.workers, *shard())
    evaluation = evaluate(assembly.network, loader, sorted({*assembly.budgets, DENSE}), device)
    results = describe(assembly.network, config.model.name, assembly.splits, assembly.splits.reported, evaluation)
    results.update(epoch=best["epoch"], weights=best["weights"], validated_on=assembly.splits.validated_on,
                   trained_budgets=assembly.budgets.plain())  # without what was filled in
    if assembly.targets is not None:
        results["awareness"] = {"metric": config.awareness.metric,
                                "targets": dict(zip(assembly.budgets.names, assembly.targets))}
    best["model"]["budgets"] = assembly.network.budgets.plain()
    best.update(state_dict=assembly.network.state_dict(), calibrated=True, results=results,
                curves=results.get("curves", {}), confidence=results.get("confidence", {}))
    checkpoints.save(path, best)
    return results, evaluation


def _calibrate(config: TrainConfig, assembly: Assembly, device: torch.device) -> None:
    """Thresholds that meet the budgets, and statistics of a dense path that was not trained.

    Statistics see augmented images, as those of the trained budgets did: measured on others they
    cost points (experiments/LOG.md). Thresholds see what inference sees.

    Every process does it with the same images, as one process would, and takes over rank 0's outcome:
    another GPU may have rounded otherwise.
    """
    use_own_part(assembly.network)
    count, size, workers = config.budgets.calibration_images, config.trainer.eval_batch_size, config.data.workers
    if not assembly.budgets.has_dense and assembly.teacher is not self_teacher:
        images = limited(assembly.splits.train, max(2, count))  # of one image there are no statistics
        batch_size = min(max(2, config.recipe.batch_size), len(images))  # as the trained budgets' statistics saw them
        augmented = train_loader(images, batch_size, workers, config.trainer.seed)
        calibrate_dense_statistics(assembly.network, [x.to(device) for x, _ in augmented])
    if assembly.budgets.adaptive:
        batches = [x.to(device) for x in calibration_batches(config, assembly.splits)]
        if config.budgets.calibrate:
            calibrate_thresholds(assembly.network, batches)
        if config.budgets.sample == "continuous":
            fill_in(assembly.network)  # from calibrated thresholds, so that those between begin near to theirs
            if config.budgets.calibrate:
                calibrate_thresholds(assembly.network, batches)
        calibrate_curves(assembly.network, batches)
    if len(assembly.network.budgets.values) > 1:
        try:
            calibrate_confidence(assembly.network,
                                 (x.to(device) for x in unseen_batches(assembly.splits, size, workers,
                                                                       config.trainer.limit_eval_images)))
        except UserError as error:  # the network is as good without
            log.warning("no cascade: %s", error)
    share_state(assembly.network)
    assembly.network.curves = share(assembly.network.curves)
    assembly.network.confidence = share(assembly.network.confidence)


def describe(network: AdaptiveNetwork, name: str, splits: Splits, split: str, evaluation: Evaluation) -> dict:
    """The content of results.json."""
    return {"model": name, "parameters": sum(p.numel() for p in network.parameters()),
            "dense_macs": network.dense_macs(height_width(splits.image_size)),
            "data": splits.name, "split": split, "classes": len(splits.classes), "image_size": splits.image_size,
            "weights_digest": state_digest(network), "images_digest": splits.digest(split),
            "trained_budgets": network.budgets.plain(), "rows": evaluation.rows,
            **({"curves": checkpoints.plain_curves(network)} if network.curves else {}),
            **({"confidence": network.confidence.plain()} if network.confidence else {})}


def draw(network: AdaptiveNetwork, dataset: Dataset, splits: Splits, evaluation: Evaluation, folder: Path,
         count: int, batch_size: int, device: torch.device) -> dict[str, Path]:
    """Masks on `count` images, density per block and accuracy over cost; returns the files by name."""
    trained = network.budgets.values
    paths = {"accuracy_cost": folder / "accuracy_cost.png"}
    accuracy_cost_picture(evaluation.rows, paths["accuracy_cost"], trained=trained)
    measured = Budgets(r["budget"] for r in evaluation.rows).adaptive
    if not all(map(network.budgets.has, measured)):
        for name, key in (("accuracy_budget", "budget"), ("accuracy_latency", "latency_ms")):
            if any(row.get(key) is not None for row in evaluation.rows):
                paths[name] = folder / f"{name}.png"
                accuracy_cost_picture(evaluation.rows, paths[name], trained=trained, key=key)
    adaptive = tuple(b for b in measured if b in trained) or measured  # a column a budget: not of a whole range
    if not adaptive:
        return paths
    paths.update(masks=folder / "masks.png", density=folder / "density.png")
    density_picture({b: evaluation.densities[b.name] for b in adaptive}, paths["density"],
                    images=evaluation.rows[0]["images"])
    with without_fail("the masks"):
        draw_masks(network, dataset, splits, adaptive, paths["masks"], count, batch_size, device, evaluation)
    return paths


@contextlib.contextmanager
def without_fail(what: str) -> Iterator[None]:
    """Let a picture that cannot be drawn, such as for want of memory, be a warning: a training is worth more."""
    try:
        yield
    except Exception as error:
        log.warning("%s could not be drawn (%s)", what, first_line(error))


def draw_masks(network: AdaptiveNetwork, dataset: Dataset, splits: Splits, budgets: Sequence[Budget], path: Path,
               count: int, batch_size: int, device: torch.device, evaluation: Evaluation | None = None) -> Path:
    """The sheet of `bdsa.report.pictures.masks.mask_picture` for `count` images, always the same ones.

    The network sees them in batches of `batch_size`, as in an evaluation.
    With an evaluation, the sheet becomes a PDF too, and the masks and the evaluation's densities are written beside
    it, for bdsa-report. Returns the path. The network is left in eval mode.
    """
    few = limited(dataset, count)
    samples = [few[i] for i in range(len(few))]
    images = torch.stack([image for image, _ in samples])
    network.eval()
    batches = [batch.to(device) for batch in images.split(batch_size)]
    columns = [_column(network, batches, budget, splits) for budget in budgets]
    shown = pixels(images, splits.mean, splits.std)
    labels = [splits.classes[label] for _, label in samples]
    mask_picture(shown, columns, path, names=[f"image {i + 1}" for i in range(len(few))], labels=labels,
                 max_images=count, pdf=evaluation is not None)
    if evaluation is not None:
        between = [] if network.cascade else budgets_between(network)  # for the page's slider, which shows one look
        further = [b for b in between if b not in budgets]
        columns += [_column(network, batches, budget, splits) for budget in further]
        write_mask_set(path.with_name(MASK_SET), shown, columns, labels=labels, densities=evaluation.densities,
                       measured=evaluation.rows[0]["images"])
    return path


@torch.inference_mode()
def _column(network: AdaptiveNetwork, batches: Sequence[torch.Tensor], budget: Budget, splits: Splits) -> MaskColumn:
    """What a network in evaluation mode does to batches of images [B, 3, H, W] at a budget."""
    masks, fractions, predictions = [], [], []
    for images in batches:
        logits, usage = network(images, budget=budget, return_usage=True)
        masks.append([m.cpu() for m in usage.masks])
        fractions += usage.conditional_fraction.tolist()
        predictions += [splits.classes[c] for c in logits.argmax(dim=1).tolist()]
    return MaskColumn(budget, [torch.cat(of_block) for of_block in zip(*masks)], fractions, predictions)


def show(run: RunFolder, tracked: str | None = None, note: str | None = None) -> None:
    """Print the table of a finished run and where everything is, once for all processes."""
    if is_main():
        results = read_results(run.path, shown=True)
        with contextlib.redirect_stdout(LastingOutput(sys.stdout)):
            _print(results, run, tracked, note)


def _print(results: dict[str, Any], run: RunFolder, tracked: str | None, note: str | None) -> None:
    print()
    print_table(results["rows"], dense_macs=results["dense_macs"], parameters=results["parameters"])
    averaged = " (averaged weights)" if results["weights"] == "ema" else ""
    print(f"{results['data']}, split {results['split']}: network of epoch {results['epoch']}{averaged}, "
          f"chosen on {results['validated_on']}")
    if raw := results.get("raw"):
        print()
        print_table(raw["rows"], dense_macs=results["dense_macs"], parameters=results["parameters"])
        print(f"the same without averaging: raw weights of epoch {raw['epoch']}")
    if line := latency_line(results):
        print(line)
    if not Budgets(results["trained_budgets"]).has_dense:
        print("the dense budget was not trained: its row is the shared weights with all masks one")
    places = [("folder", run.path), ("checkpoint", run.best_of(results["weights"])),
             ("unaveraged", run.best if raw else None), ("metrics", run.metrics.path),
             ("results", run.results_file), ("pictures", run.pictures if run.pictures.exists() else None),
              ("tracker", tracked)]
    for what, where in places:
        if where is not None:
            print(f"  {what:<11}{where}")
    if note:
        print(note)
