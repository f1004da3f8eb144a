"""The plots for print, each as PNG and PDF: accuracy over cost, and what training and blocks did.

Colours are Okabe-Ito's for networks and viridis for budgets,
which have an order; markers, fillings and line styles say the same without the colour.
"""
from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bdsa.budgets import DENSE, Budget
from bdsa.report.colouring import colour_groups
from bdsa.report.networks import DataTable, Network, untrained_dense
from bdsa.report.pictures.axes import GREY, CountFormatter, draw_densities, finish, new_figure, save
from bdsa.report.pictures.line_styles import line_styles
from bdsa.report.published import published_points
from bdsa.report.series import bar_words, densities, density_images, evaluated, top1_range, trained_loss

_PRINT = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "axes.linewidth": 0.8, "lines.linewidth": 1.4}
_PANELS = 6  # networks with panels of their own, at most
_NARROW = 18  # blocks whose numbers have room below one of two panels side by side, at most


def write_plots(tables: list[DataTable], folder: Path) -> list[Path]:
    """Draw everything that there are numbers for; returns the PNG files."""
    written = []
    for number, table in enumerate(tables, 1):
        end = f"-{number}" if len(tables) > 1 else ""
        with rc_context(_PRINT):
            for name, figure in (("accuracy_macs", _accuracy_cost(table, "macs")),
                                 ("accuracy_latency", _accuracy_cost(table, "latency_ms")),
                                 ("accuracy_budget", _accuracy_cost(table, "budget")),
                                 ("training", _training(table)), ("density", _density(table))):
                if figure is None:
                    continue
                save(figure, folder / f"{name}{end}.png", dpi=300)
                written.append(folder / f"{name}{end}.png")
    return written


def _accuracy_cost(table: DataTable, key: str) -> Figure | None:
    """Top-1 over MACs, latency or, where bdsa-evaluate measured further ones, budgets; None where there is none."""
    measured = [n for n in table.networks if any(c.mean(key) is not None for c in n.cells.values())]
    if key == "budget" and not any(n.between or n.cascade for n in measured):
        return None
    if not measured:
        return None
    figure = new_figure(6.3, 4.2)
    axes = figure.subplots()
    groups = colour_groups(measured)
    for (_, networks), style in zip(groups.items(), line_styles(len(groups))):
        for network in networks:
            _network_line(axes, network, key, style, thin=len(measured) > len(groups), alone=len(measured) == 1)
    handles = [Line2D([], [], label=_folded(title, 52), **{**style, "markersize": 5},
                      linestyle="--" if all(n.single for n in networks) else "-",
                      markerfacecolor="white" if all(n.single for n in networks) else style["color"])
               for (title, networks), style in zip(groups.items(), line_styles(len(groups)))]
    if any(DENSE in n.trained for n in measured):
        handles.append(Line2D([], [], color=GREY, marker="*", markersize=10, linestyle="none",
                              label="dense (budget 1)"))
    if any(row.get(key) is not None for n in measured for row in n.cascade):
        handles.append(Line2D([], [], color=GREY, linestyle=":", marker="o", markersize=2,
                              label="the same as a cascade"))
    if key == "macs":
        handles += _published(axes, measured, table)
    axes.set(xlabel={"macs": "MACs an image (mean)", "latency_ms": "latency, ms"}.get(key, key),
             ylabel=f"top-1, %\n(bars: {bar_words(table)})" if len(measured) == len(groups) else "top-1, %",
             ylim=top1_range(table, published=key == "macs"))
    axes.set_xlim(left=0)  # from 0, so that distances are shares of the cost
    if key == "macs":
        axes.xaxis.set_major_formatter(CountFormatter())
    finish(axes)
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if len(handles) < 4 else 2, frameon=False)
    return figure


def _network_line(axes: Axes, network: Network, key: str, style: dict[str, Any], thin: bool, alone: bool) -> None:
    """A network's budgets in order of cost: dashed and hollow for a network a budget, a star for the dense one.

    Alone in its plot it has room to say at each point which budget it is.
    """
    cells = [c for b, c in network.cells.items() if None not in (c.mean(key), c.mean("top1"))
             and not untrained_dense(network, b)]
    cells.sort(key=lambda c: c.mean(key))
    x, y = [c.mean(key) for c in cells], [c.mean("top1") for c in cells]
    between = [(row[key], row["top1"]) for row in network.between if row.get(key) is not None]
    axes.plot(*zip(*sorted([*zip(x, y), *between])), color=style["color"], linestyle="--" if network.single else "-",
              linewidth=0.8 if thin else 1.4, alpha=0.5 if thin else 1)
    if between:
        axes.plot(*zip(*between), color=style["color"], marker="o", markersize=2, linestyle="none")
    if cascade := sorted((row[key], row["top1"]) for row in network.cascade if row.get(key) is not None):
        axes.plot(*zip(*cascade), color=style["color"], marker="o", markersize=2, linestyle=":",
                  linewidth=0.8 if thin else 1.4, alpha=0.5 if thin else 1)
    for cost, top1, cell in zip(x, y, cells):
        dense = Budget(cell.budget).is_dense
        low, high = cell.top1_interval()
        axes.errorbar(cost, top1, yerr=None if thin else [[top1 - low], [high - top1]], color=style["color"], capsize=2,
                      linewidth=0.8, clip_on=False, marker="*" if dense else style["marker"],
                      markersize=10 if dense else 3 if thin else 5.5,
                      markerfacecolor="white" if network.single and not dense else style["color"])
        if alone:
            axes.annotate(f"{cell.budget:g}", (cost, low), (0, -3), textcoords="offset points", ha="center", va="top",
                          fontsize=8, color=style["color"])


def _published(axes: Axes, networks: list[Network], table: DataTable) -> list[Line2D]:
    """Published points of each model, once; returns their entries for the legend."""
    handles = []
    by_model = {n.model: n for n in networks if n.runs and published_points(table, n)}
    for (model, network), marker in zip(sorted(by_model.items()), "x+1234|_" * len(by_model)):
        _, macs, top1 = zip(*published_points(table, network))
        look = {"color": GREY, "marker": marker, "markersize": 6, "linestyle": ":", "linewidth": 1}
        axes.plot(macs, top1, zorder=1, **look)
        handles.append(Line2D([], [], label=f"{model}, published, a network a budget", **look))
    return handles


def _training(table: DataTable) -> Figure | None:
    """Top-1, fraction and loss by epoch: a row of panels a network, or a panel a budget where they are many."""
    networks = [n for n in table.networks if any(run.epochs_done > 1 for run in n.runs)]
    if not networks:
        return None
    return _panels_of_networks(networks) if len(networks) <= _PANELS else _panels_of_budgets(networks)


def _panels_of_networks(networks: list[Network]) -> Figure:
    budgets = sorted({b for n in networks for b in n.trained})
    styles = dict(zip(budgets, line_styles(len(budgets), ordered=True)))
    figure = new_figure(7.2, 0.3 + 2.1 * len(networks))
    grid = figure.subplots(len(networks), 3, squeeze=False)
    for (top1, fraction, loss), network in zip(grid, networks):
        for budget in network.trained:
            style = {**styles[budget], "marker": None}
            fraction.axhline(budget, color=style["color"], linestyle=":", linewidth=1)
            for run in network.runs:
                top1.plot(*evaluated(run.metrics, budget, "top1"), **style)
                fraction.plot(*evaluated(run.metrics, budget, "conditional_fraction"), **style)
        for run in network.runs:
            style = {**styles[run.trained[0]], "marker": None} if network.single else {"color": "black"}
            loss.plot(*trained_loss(run.metrics), **style)
        top1.set(ylabel=_folded(network.title, 30))
        fraction.set(ylim=(0, 1.05))
        for axes in (top1, fraction, loss):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            finish(axes)
    for axes, title in zip(grid[0], ("top-1, %", "conditional fraction\n(dotted: budget)", "training loss")):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    _budget_legend(figure, {b: {**style, "marker": None} for b, style in styles.items()})
    return figure


def _panels_of_budgets(networks: list[Network]) -> Figure:
    budgets = sorted({b for n in networks for b in n.trained})
    columns = min(3, len(budgets))
    rows = -(-len(budgets) // columns)
    figure = new_figure(2.4 * columns + 0.6, 2.1 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    groups = colour_groups(networks)
    styles = dict(zip(groups, line_styles(len(groups))))
    for axes, budget in zip(grid.flat, budgets):
        for title, members in groups.items():
            for run in (r for n in members if budget in n.trained for r in n.runs):
                axes.plot(*evaluated(run.metrics, budget, "top1"), color=styles[title]["color"], linewidth=0.7,
                          alpha=0.4)
        axes.set(title=f"budget {budget:g}", ylabel="top-1, %", xlabel="epoch")
        finish(axes)
    for axes in grid.flat[len(budgets):]:
        axes.set_visible(False)
    handles = [Line2D([], [], color=style["color"], label=_folded(title, 52)) for title, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _density(table: DataTable) -> Figure | None:
    """The share of positions that each block ran at: a panel a network, a line a budget."""
    known = [(n, densities(n)) for n in table.networks]
    known = [(n, d) for n, d in known if d][:_PANELS]
    if not known:
        return None
    budgets = sorted({b for _, found in known for b in found})
    styles = dict(zip(budgets, line_styles(len(budgets), ordered=True)))
    blocks = max(len(values) for _, found in known for values in found.values())
    columns = min(2 if blocks <= _NARROW else 1, len(known))
    rows = -(-len(known) // columns)
    width = min(7.2, max(5.4, 0.2 * blocks)) if columns == 1 else 3.4 * columns
    figure = new_figure(width, 2.3 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (network, found) in zip(grid.flat, known):
        draw_densities(axes, found, styles, room=_NARROW if columns == 2 else 2 * _NARROW)
        axes.set(title=_folded(network.title, 44), xlabel=f"block (mean of {density_images(network):,} images)")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for axes in grid.flat[len(known):]:
        axes.set_visible(False)
    _budget_legend(figure, styles)
    return figure


def _budget_legend(figure: Figure, styles: dict[float, dict[str, Any]]) -> None:
    handles = [Line2D([], [], label=f"budget {b:g}", **style) for b, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)


def _folded(text: str, width: int) -> str:
    """A title in lines; what tells networks apart stands at its end, so that nothing is cut off."""
    return textwrap.fill(text, width, break_long_words=True)
