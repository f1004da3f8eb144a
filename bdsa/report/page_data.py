"""What the page's script needs, as plain values: plots, masks and runs, kept small so that 200 runs open at once."""
from __future__ import annotations

from typing import Any

from bdsa.budgets import DENSE, Budget, Budgets
from bdsa.report.colouring import colour_groups
from bdsa.report.lines import Line, table_lines
from bdsa.report.missing import Missing, command_of
from bdsa.report.networks import DataTable, Network, setting_value
from bdsa.report.published import published_points
from bdsa.report.series import evaluated, top1_range
from bdsa.report.terminal import human_count
from bdsa.runs.reading import Run

_EPOCHS = 60              # points of a curve, at most
_MASK_BYTES = 2_500_000   # of all masks and images together
_HIDDEN = {"out", "name"}  # where a run lies, not what it is


def page_data(tables: list[DataTable], runs: list[Run], missing: list[Missing], budgets: list[float]) -> dict[str, Any]:
    """Everything under the page's `data` element."""
    settings = {run.name: {k: v for k, v in _flat(run.config).items() if k not in _HIDDEN} for run in runs}
    first = next(iter(settings.values()), {})
    common = {k: v for k, v in first.items() if all(s.get(k) == v for s in settings.values())}
    why = {m.run.name: m.why for m in missing if m.run is not None}
    images: list[str] = []
    viewers = _viewers(tables, images)
    return {"tables": [_plot(table, table_lines(table, budgets)) for table in tables],
            "budgets": sorted({b for run in runs for b in run.trained}),
            "common": common, "viewers": viewers, "images": images,
            "runs": [_run(run, {k: v for k, v in settings[run.name].items() if k not in common}, why.get(run.name))
                     for run in runs]}


def viewers_left_out(tables: list[DataTable], data: dict[str, Any]) -> int:
    """How many networks have masks that the page did not take, for its size."""
    return sum(_stops(n) != [] for t in tables for n in t.networks) - len(data["viewers"])


def _plot(table: DataTable, lines: list[Line]) -> dict[str, Any]:
    group_of = {id(n): name for name, networks in colour_groups(table.networks).items() for n in networks}
    by_model = {n.model: points for n in table.networks if (points := published_points(table, n))}
    return {"title": table.title, "top1": {cost: top1_range(table, published=cost == "macs")
                                           for cost in ("macs", "latency", "budget")},
            "networks": [{"group": group_of[id(n)], "single": n.single,
                          "points": [_point(line) for line in lines
                                     if line.network is n and line.top1 is not None and not line.untrained],
                          "between": [_measured(n, row, _untrained(n, row["budget"])) for row in n.between],
                          "cascade": [_measured(n, row, ", as a cascade") for row in n.cascade]}
                         for n in table.networks],
            "published": [{"model": m, "points": [[b, round(macs), top1] for b, macs, top1 in points]}
                          for m, points in sorted(by_model.items())]}


def _point(line: Line) -> dict[str, Any]:
    low, high = line.interval
    sure = f"95 % interval {low:.2f} to {high:.2f}" if line.deviation is None else (
        f"± {line.deviation:.2f}, {line.runs} seeds")
    says = [line.network.title, f"budget {line.budget:g}: {line.top1:.2f} %", sure,
            f"fraction {line.fraction:.3f}, {human_count(line.macs)} MACs"]
    if line.top5 is not None:
        says.append(f"top-5 {line.top5:.2f} %")
    if line.latency_ms is not None:
        says.append(f"{line.latency_ms:.2f} ms" + (f", {line.speedup:.2f} times as fast as dense"
                                                   if line.speedup is not None else ""))
    if line.difference is not None:
        says.append(f"{line.difference:+.2f} to the published {line.published:.2f} %")
    return {"budget": line.budget, "macs": line.macs, "latency": line.latency_ms, "top1": line.top1,
            "bar": [low, high], "tip": "\n".join(says)}


def _untrained(network: Network, budget: float) -> str:
    """Where a budget lies beside those that were trained, and of how many runs its figure is, where there are more."""
    where = "below" if budget < network.trained[0] else "above" if budget > network.trained[-1] else "between"
    return f", {where} those that were trained" + (", of one run" if len(network.runs) > 1 else "")


def _measured(network: Network, row: dict[str, Any], how: str) -> dict[str, Any]:
    """What bdsa-evaluate measured afterwards: a point of a line, without a bar."""
    says = [network.title, f"budget {row['budget']:g}{how}: {row['top1']:.2f} %",
            f"fraction {row['conditional_fraction']:.3f}, {human_count(row['macs'])} MACs"]
    latency = row.get("latency_ms")
    return {"budget": row["budget"], "macs": row["macs"], "latency": latency, "top1": row["top1"], "bar": None,
            "small": True, "tip": "\n".join([*says, *([] if latency is None else [f"{latency:.2f} ms"])])}


def _viewers(tables: list[DataTable], images: list[str]) -> list[dict[str, Any]]:
    """A viewer a network, of the first run of each budget that kept its masks; `images` is filled, each strip once."""
    found, size = [], 0
    for network in (n for t in tables for n in t.networks):
        stops = _stops(network)
        if not stops:
            continue
        first = stops[0][1]
        stops = [(b, kept) for b, kept in stops if kept["images"] == first["images"]]  # a slider keeps its images
        own = 0 if first["images"] in images else len(first["images"])
        if found and size + own + _mask_bytes(stops) > _MASK_BYTES:  # without those between it may fit
            stops = [(b, kept) for b, kept in stops if b in network.trained]
        added = own + _mask_bytes(stops)
        if found and size + added > _MASK_BYTES:
            continue
        size += added
        if first["images"] not in images:
            images.append(first["images"])
        shown = [{"budget": b, "trained": b in network.trained,
                  **{k: kept["budgets"][Budget(b).name][k] for k in ("masks", "predictions")}}
                 for b, kept in stops]
        found.append({"title": network.title, "count": first["count"], "ratio": first["ratio"],
                      "blocks": first["blocks"], "labels": first["labels"], "images": images.index(first["images"]),
                      "photo": first["images"].startswith("data:image/jpeg"),
                      "stops": [*shown, {"budget": DENSE, "trained": DENSE in network.trained,
                                           "masks": None}]})
    return found


def _mask_bytes(stops: list[tuple[float, dict[str, Any]]]) -> int:
    return sum(len(kept["budgets"][Budget(b).name]["masks"]) for b, kept in stops)


def _stops(network: Network) -> list[tuple[float, dict[str, Any]]]:
    """Budget and masks of a network: of the first of its runs that has them."""
    stops = []
    for budget in Budgets(network.trained).adaptive:
        for run in network.cells[budget].runs if budget in network.cells else ():
            if run.masks is not None and budget.name in run.masks["budgets"]:
                stops.append((budget, run.masks))
                break
    kept = stops[0][1]["budgets"] if stops and not network.single else {}
    known = {b for b, _ in stops}
    between = [b for column in kept.values() if (b := column.get("budget")) is not None and b not in known]
    return sorted([*stops, *((b, stops[0][1]) for b in between)], key=lambda stop: stop[0])


def _run(run: Run, settings: dict[str, str], why: str | None) -> dict[str, Any]:
    where = run.environment
    made = [where.get("accelerator") or where.get("processor"), where.get("threads") and f"{where['threads']} threads",
            isinstance(where.get("versions"), dict) and f"torch {where['versions'].get('torch')}",
            where.get("commit") and f"commit {str(where['commit'])[:12]}", f"folder {run.folder}"]
    return {"command": run.command or command_of(run.settings, run.config.get("out")), "note": why,
            "made": ", ".join(str(m) for m in made if m), "settings": settings,
            "curves": {f"{b:g}": _curve(run, b) for b in run.trained},
            "densities": _densities(run), "measured": run.masks["measured"] if _densities(run) else 0}


def _densities(run: Run) -> dict[str, list[float]]:
    kept = run.masks if run.results is not None else None
    return {f"{b:g}": kept["budgets"][Budget(b).name]["densities"] for b in run.trained
            if kept and Budget(b).name in kept["budgets"]}


def _curve(run: Run, budget: float) -> dict[str, list]:
    """Top-1 and fraction of a budget, at no more than 60 epochs, the last one among them."""
    epochs, top1 = evaluated(run.metrics, budget, "top1")
    fractions = dict(zip(*evaluated(run.metrics, budget, "conditional_fraction")))
    step = -(-len(epochs) // _EPOCHS) or 1
    kept = range(len(epochs) - 1, -1, -step)[::-1]
    return {"epoch": [epochs[i] for i in kept], "top1": [round(top1[i], 2) for i in kept],
            "fraction": [None if (f := fractions.get(epochs[i])) is None else round(f, 3) for i in kept]}


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """All settings as flat names and texts."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and prefix == "":
            flat.update(_flat(value, f"{key}."))
        else:
            flat[f"{prefix}{key}"] = setting_value(value)
    return flat
