"""Pictures of a run: where each budget computed, how it trained, and accuracy over cost.

Only Figure objects and the Agg canvas: pyplot keeps global state and may look for a screen.
"""
from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor
from torch.nn import functional

from bdsa.report.pictures.line_styles import HEAT, line_styles
from bdsa.report.terminal import human_count
from bdsa.runs.metrics import flat

_CELL = 1.7  # inches of one square of a sheet: at 150 dpi a 224-pixel image is shown whole


def ponder_map(masks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Count the blocks that ran at each position; the masks are left as they are.

    Args:
        masks: one a block, bool or 0/1, [B, 1, h, w], h and w of the block's own resolution.
        size: (H, W) of the map; masks are brought to it by nearest neighbour.

    Returns:
        float [B, H, W], from 0 to the number of blocks.
    """
    if not masks:
        raise ValueError("a ponder map needs the mask of at least one block")
    count = torch.zeros(masks[0].shape[0], *size, device=masks[0].device)
    for mask in masks:
        count += functional.interpolate(mask.detach().float(), size, mode="nearest")[:, 0]
    return count


def mask_picture(images: Tensor, usages: Mapping[str, Sequence[Tensor]], path: str | Path, *,
                 names: Sequence[str], labels: Sequence[object] | None = None,
                 predictions: Mapping[str, Sequence[object]] | None = None, max_images: int = 8) -> None:
    """Draw a sheet of images, a row each: the image, then per budget the overlay and the ponder map.

    The overlay is the image in pale grey under the heat of the ponder map, so that colour means
    only one thing; where no block ran, nothing lies over the image. All maps share one scale,
    from 0 to the number of blocks.

    Args:
        images: float [B, 3, H, W] in 0..1, already un-normalised.
        usages: budget name -> mask of each block, bool [B, 1, h, w].
        path: the PNG file.
        names: what to call each image, such as its file name, B of them.
        labels: the true class of each image, as it should be read, B of them; None where it is not known.
        predictions: budget name -> the class predicted for each image; written under the overlay.
        max_images: number of images drawn, the first ones.
    """
    if not usages:
        raise ValueError("a mask picture needs the masks of at least one budget")
    labels = labels.tolist() if isinstance(labels, Tensor) else labels
    images = images[:max_images].detach().float().cpu().clamp(0, 1)
    shown, _, height, width = images.shape
    maps = {name: ponder_map([mask[:max_images] for mask in masks], (height, width)).cpu()
            for name, masks in usages.items()}
    most = max(len(masks) for masks in usages.values())

    columns = 1 + 2 * len(maps)
    figure = _figure(_CELL * columns + 2.4, (_CELL * height / width + 0.25) * shown + 0.6, "compressed")
    grid = figure.subplots(shown, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    heat = None
    for row, image in enumerate(images):
        grid[row, 0].imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        caption = textwrap.fill(_short(names[row], 32), 16)
        if labels is not None and labels[row] is not None:
            caption += f"\n{_short(labels[row], 16)}"
        grid[row, 0].set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=9,
                                parse_math=False)
        for index, (name, ponder) in enumerate(maps.items()):
            overlay, plain_map = grid[row, 1 + 2 * index], grid[row, 2 + 2 * index]
            overlay.imshow(0.3 + 0.7 * image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1,
                           interpolation="nearest")
            count = ponder[row].numpy()
            for axes, alpha in ((overlay, 0.6 * (count > 0)), (plain_map, None)):
                heat = axes.imshow(count, cmap=HEAT, vmin=0, vmax=most, alpha=alpha, interpolation="nearest")
            if predictions is not None and name in predictions:
                _write_prediction(overlay, predictions[name][row], None if labels is None else labels[row])
    grid[0, 0].set_title("image", fontsize=10)
    for index, (name, ponder) in enumerate(maps.items()):
        share = float(ponder.mean()) / len(usages[name])
        grid[0, 1 + 2 * index].set_title(f"{name}\nwhere it ran", fontsize=10)
        grid[0, 2 + 2 * index].set_title(f"{name}\n{share:.0%} of blocks", fontsize=10)
    bar = figure.colorbar(heat, ax=grid, shrink=min(1.0, 3 / shown), aspect=20, pad=0.01,
                          label=f"blocks that ran, of {most}")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def density_picture(densities: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """Draw the share of positions that each block ran at, a line a budget.

    Args:
        densities: budget name -> mean density of each block, 0..1, from the first block on.
    """
    blocks = max(len(values) for values in densities.values())
    figure = _figure(max(6.0, 2.5 + 0.35 * blocks), 4.0)
    axes = figure.subplots()
    for (name, values), style in zip(densities.items(), line_styles(len(densities))):
        axes.plot(range(len(values)), [100 * value for value in values], label=name, **style)
    axes.set(xlabel="block", ylabel="positions that ran, %", ylim=(-3, 103))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes)
    _save(figure, path)


def curves_picture(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw a run's epochs: top-1 and conditional fraction per budget (dashed: target), loss terms.

    Args:
        rows: what `MetricsFile.read` returns. A later row of the same epoch replaces an earlier one.
    """
    figure = _figure(13.0, 4.2)
    top1, fraction, loss = figure.subplots(1, 3)
    evals = [row for row in rows if row.get("kind") == "eval"]
    budgets = dict(sorted({(row["name"], row["budget"]) for row in evals}, key=lambda pair: pair[1]))
    for (name, budget), style in zip(budgets.items(), line_styles(len(budgets))):
        own = [row for row in evals if row["name"] == name and row.get("weights") != "ema"]
        averaged = [row for row in evals if row["name"] == name and row.get("weights") == "ema"]
        _curve(top1, own, "top1", label=name, **style)
        if averaged:
            _curve(top1, averaged, "top1", label=f"{name}, averaged", **{**style, "linestyle": ":", "marker": None})
        _curve(fraction, own, "conditional_fraction", label=name, **style)
        fraction.axhline(budget, color=style["color"], linestyle="--", linewidth=1)
    trains = [flat(row) for row in rows if row.get("kind") == "train"]
    terms = dict.fromkeys(key for row in trains for key in row if key.split("/")[0] == "loss")
    for term, style in zip(terms, line_styles(len(terms))):
        _curve(loss, trains, term, label=term.removeprefix("loss/"), **style)
    top1.set(title="top-1, %", xlabel="epoch")
    fraction.set(title="conditional fraction (dashed: target)", xlabel="epoch")
    fraction.set_ylim(0, 1.05)
    loss.set(title="loss terms, training", xlabel="epoch")
    for axes in (top1, fraction, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(axes)
    _save(figure, path)


def accuracy_cost_picture(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw top-1 over MACs, a point a budget.

    Args:
        rows: results, a row a budget: name, budget, top1 (percent), conditional_fraction, macs
            (mean over the images), images.
    """
    rows = sorted((row for row in rows if None not in (row["macs"], row["top1"])), key=lambda row: row["macs"])
    figure = _figure(6.5, 4.4)
    axes = figure.subplots()
    axes.plot([row["macs"] for row in rows], [row["top1"] for row in rows], color="0.6", zorder=1)
    for row, style in zip(rows, line_styles(len(rows))):
        fraction = row.get("conditional_fraction")
        label = row["name"] if fraction is None else f"{row['name']}  (fraction {fraction:.2f})"
        axes.plot(row["macs"], row["top1"], label=label, **{**style, "linestyle": "none", "markersize": 8})
    axes.set(xlabel="MACs an image (mean)", ylabel="top-1, %")
    most = max((row["macs"] for row in rows), default=1.0)
    axes.set_xlim(0, 1.08 * most)  # from 0, so that distances are shares of the cost
    axes.xaxis.set_major_formatter(FuncFormatter(lambda macs, _: human_count(macs)))
    axes.margins(y=0.12)
    _finish(axes)
    _save(figure, path)


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    by_epoch = {row["epoch"]: row[key] for row in rows if row.get(key) is not None}
    axes.plot(sorted(by_epoch), [by_epoch[epoch] for epoch in sorted(by_epoch)], **style)


def _write_prediction(axes: Axes, predicted: object, label: object | None) -> None:
    if isinstance(predicted, Tensor):
        predicted = predicted.item()
    wrong = label is not None and predicted != label
    mark = "" if label is None else "✗ " if wrong else "✓ "
    axes.set_xlabel(_short(f"{mark}{predicted}", 22), fontsize=8, labelpad=2, parse_math=False,
                    color="#D55E00" if wrong else "black")


def _short(text: object, length: int) -> str:
    text = str(text)
    return text if len(text) <= length else f"{text[:length - 3]}..."


def _figure(width: float, height: float, layout: str = "constrained") -> Figure:
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Axes) -> None:
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", color="0.5")


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.1)
