"""The work of bdsa-visualize: a checkpoint's masks on images, into pictures and densities.json."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bdsa.commands.answers import Answer, ask, image_row, masked_budgets, mean_row
from bdsa.commands.asked_data import data_settings, labelled
from bdsa.commands.result_folders import visualization_folder
from bdsa.commands.shown_images import ShownImages, from_files, from_split, imagenet_synsets
from bdsa.config import loaded
from bdsa.config.data import for_network
from bdsa.config.settings import TrainerConfig
from bdsa.config.visualize import VisualizeConfig
from bdsa.data.datasets import create_splits, dataset_names
from bdsa.data.image_files import find_image_files
from bdsa.data.registry import entry
from bdsa.errors import UserError
from bdsa.models import checkpoints
from bdsa.models.cifar_resnet import CifarResNet
from bdsa.models.factory import check_image_size, input_channels
from bdsa.models.network import AdaptiveNetwork
from bdsa.report.pictures.animation import animation
from bdsa.report.pictures.blocks import BlockLabel, Seen, mask_sheet, ponder_sheet, soft_mask_sheet
from bdsa.report.pictures.mask_set import write_mask_set
from bdsa.report.pictures.masks import MaskColumn, mask_picture
from bdsa.report.pictures.run import density_picture
from bdsa.report.progress import progress_bar
from bdsa.report.terminal import human_count
from bdsa.runs.contents import MASK_SET
from bdsa.runs.files import check_writable, write_json
from bdsa.training.device import choose_device

COUNT = 8      # images, where nobody said how many
OVERVIEW = 16  # images of the overview and the animation, at most: more are never seen whole
EACH = ("ponder", "masks", "soft")  # pictures of one image at one budget


def visualize(config: VisualizeConfig, named: Collection[str] = ()) -> dict[str, Any]:
    """Draw what the config asks for and write densities.json; return its content.

    Args:
        config: the command's.
        named: the settings that the command line names, whatever their values are.

    Raises:
        UserError: for bad input, before anything is written.
    """
    device = choose_device(TrainerConfig(device=config.trainer.device, threads=config.trainer.threads))
    files = None if config.images is None else find_image_files(config.images)
    stored = checkpoints.open_network(config.checkpoint, config.published, config.budgets.targets)
    network, name, content = stored.network, stored.name, stored.content
    budgets = masked_budgets(network, config.budgets.targets)
    if files is None:
        shown, source = _of_data(config, content, network, named)
    else:
        shown, source = _of_files(config, content, network, files, named)
    check_image_size(network, name, list(shown.images.shape[2:]))
    folder = visualization_folder(config, source, named)
    check_writable(folder)
    answers = ask(network.to(device).eval(), shown.images, budgets, device)
    folder.mkdir(parents=True, exist_ok=True)
    blocks = block_labels(network)
    dense = network.dense_macs(tuple(shown.images.shape[2:]))
    columns = [MaskColumn(a.budget, a.masks, a.fractions, [shown.classes[p] for p in a.predictions]) for a in answers]
    written = _draw_all(config.pictures, folder, shown, answers, columns, blocks)
    written += _draw_each([kind for kind in EACH if kind in config.pictures], folder, shown, answers, blocks, dense)
    record = {"checkpoint": config.checkpoint, "model": name, "images_of": source, "dense_macs": dense,
              "blocks": [{"name": block.name, "mask": list(mask.shape[2:])}
                         for block, mask in zip(blocks, answers[0].masks)],
              "budgets": [mean_row(answer, shown.labels) for answer in answers],
              "images": [{"name": image, "source": shown.sources[i], "true": shown.true_class(i),
                          "budgets": {a.name: image_row(a, i, shown.classes) for a in answers}}
                         for i, image in enumerate(shown.names)]}
    write_json(folder / "densities.json", record)
    write_mask_set(folder / MASK_SET, shown.pixels, columns, labels=shown.true_classes(),
                   densities={a.name: a.densities().mean(dim=0).tolist() for a in answers}, measured=len(shown.names))
    _report(record, shown, [*written, ("numbers", folder / "densities.json")])
    return record


def block_labels(network: AdaptiveNetwork) -> list[BlockLabel]:
    """A label for each adaptive block, from its weights' name: layer2.1, or stages.2.8 in a ConvNeXt."""
    names = {module: name.replace(".blocks.", ".") for name, module in network.named_modules()}
    return [BlockLabel(names[block], names[block].rpartition(".")[0]) for block in network.adaptive_blocks()]


def _of_data(config: VisualizeConfig, content: dict[str, Any] | None,
             network: AdaptiveNetwork, named: Collection[str]) -> tuple[ShownImages, str]:
    """Images of the data set's split, and what to call it."""
    if content is None and not config.data.name:
        raise UserError("which images? a published checkpoint does not say: give images=PATH, or data=folder "
                        "data.root=PATH, data=cifar10 or data=cifar100")
    data = data_settings(config.data, content, named, config.split)
    if data.name not in dataset_names():
        loaded.require(content, config.checkpoint)
    splits = create_splits(for_network(data, input_channels(network), config.checkpoint))
    splits = labelled(splits, network, content, f"checkpoint {config.checkpoint}")
    split = config.split or splits.reported
    return from_split(splits, split, config.count or COUNT), f"{splits.name}-{split}"


def _of_files(config: VisualizeConfig, content: dict[str, Any] | None, network: AdaptiveNetwork,
              files: list[Path], named: Collection[str]) -> tuple[ShownImages, str]:
    """Files at the size of the training, with the names of the checkpoint's classes, or else of its data set's."""
    data, classes, note = config.data, None, None
    named_classes = (content or {}).get("classes")
    size = data.image_size
    if content is None and not data.name:  # the published networks: ImageNet's, or CIFAR's without names
        data = for_network(replace(data, augmentation="auto"), input_channels(network), config.checkpoint)
        size = size or (32 if isinstance(network, CifarResNet) else 224)
        classes = imagenet_synsets() if network.num_classes == 1000 else None
    else:
        data = for_network(data_settings(data, content, named), input_channels(network), config.checkpoint)
        try:
            splits = create_splits(data)
            size, classes = splits.image_size, splits.classes
        except UserError as error:
            if config.data.name:
                raise
            if not named_classes:
                note = f"classes are shown by number, because the training's data are not here: {error}"
            size = data.image_size or (content.get("results") or {}).get("image_size") or entry(data.name).image_size
    classes = named_classes or classes
    if classes is not None and len(classes) != network.num_classes:
        raise UserError(f"checkpoint {config.checkpoint} has {network.num_classes} classes, the data {len(classes)}")
    listed = len(files) == len(config.images)  # every one by its own name
    shown = from_files(files, config.count or (None if listed else COUNT), data, size,
                       classes, network.num_classes)
    shown.notes += [note] * (note is not None)
    return shown, "images"


def _draw_all(kinds: Sequence[str], folder: Path, shown: ShownImages, answers: list[Answer],
              columns: list[MaskColumn], blocks: list[BlockLabel]) -> list[tuple[str, object]]:
    """Write the pictures of all images together; returns what to call them and where they are."""
    written = []
    cut = f" (the first {OVERVIEW} images)" if len(shown.names) > OVERVIEW else ""
    if "overview" in kinds:
        mask_picture(shown.pixels, columns, folder / "overview.png", names=shown.names, labels=shown.true_classes(),
                     max_images=OVERVIEW)
        written.append(("overview", f"{folder / 'overview'}.{{png,pdf}}{cut}"))
    if "density" in kinds:
        density_picture({a.budget: a.densities().mean(dim=0).tolist() for a in answers}, folder / "density.png",
                        stages=[block.stage for block in blocks], images=len(shown.names))
        written.append(("density", f"{folder / 'density'}.{{png,pdf}}"))
    if "animation" in kinds:
        animation(shown.pixels, columns, folder / "animation.gif", labels=shown.true_classes(), max_images=OVERVIEW)
        written.append(("animation", f"{folder / 'animation.gif'}{cut}"))
    return written


def _draw_each(kinds: list[str], folder: Path, shown: ShownImages, answers: list[Answer], blocks: list[BlockLabel],
               dense: int) -> list[tuple[str, object]]:
    """Write the pictures of one image at one budget; returns what to call them and where they are."""
    with progress_bar() as bar:
        task = bar.add_task("drawing", total=len(shown.names) * len(answers) * len(kinds))
        for index, name in enumerate(shown.names):
            for answer in answers:
                seen = _seen(shown, index, answer, dense)
                for kind in kinds:
                    path = folder / name / f"{kind}_{answer.name}.png"
                    if kind == "ponder":
                        ponder_sheet(seen, path)
                    else:
                        (mask_sheet if kind == "masks" else soft_mask_sheet)(seen, blocks, path)
                    bar.advance(task)
    pattern = "{" + ",".join(kinds) + "}" if len(kinds) > 1 else "".join(kinds)
    return [("each image", f"{folder / 'IMAGE' / pattern}_BUDGET.{{png,pdf}}")] * bool(kinds)


def _seen(shown: ShownImages, index: int, answer: Answer, dense: int) -> Seen:
    """What a picture of one image at one budget needs, captions included."""
    predicted, true = shown.classes[answer.predictions[index]], shown.true_class(index)
    verdict = "" if true is None else " ✓" if predicted == true else f" ✗ (it is {true})"
    macs = answer.macs[index]
    return Seen(shown.pixels[index], [mask[index, 0] for mask in answer.masks],
                [soft[index, 0] for soft in answer.soft_masks],
                title=f"{shown.names[index]} at budget {answer.budget:g}",
                caption=f"predicted {predicted}{verdict}; conditional fraction {answer.fractions[index]:.3f}; "
                        f"{human_count(macs)} MACs, {100 * macs / dense:.0f} % of the dense network's")


def _report(record: dict[str, Any], shown: ShownImages, written: list[tuple[str, object]]) -> None:
    """Print what was found and where it is."""
    chosen = f"{len(shown.names)} of {shown.available}" if shown.available > len(shown.names) else len(shown.names)
    print(f"{record['model']} on {record['images_of']}: {chosen} images, {len(record['blocks'])} blocks")
    for row in record["budgets"]:
        right = f"   right: {row['right']} of {row['labelled']}" if row["labelled"] else ""
        print(f"  budget {row['budget']:<5g} conditional fraction {row['conditional_fraction']:.3f}   "
              f"{human_count(row['macs'])} MACs{right}")
    for note in shown.notes:
        print(f"note: {note}")
    for what, where in written:
        print(f"  {what:<11}{where}")
