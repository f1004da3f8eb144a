"""Target top-1 per budget for the awareness weights: a CSV with a row a model and a column a budget."""
from __future__ import annotations

import csv
from pathlib import Path

from bdsa.budgets import Budgets
from bdsa.errors import UserError, first_line, nearest, unknown

SHIPPED = Path(__file__).parent / "published_targets"


def read_targets(source: str, row: str, budgets: Budgets) -> list[float]:
    """Targets of the budgets, in their order, in percent.

    Args:
        source: a CSV file, or the name of a shipped one: "imagenet", "cifar10".
        row: the model's row; a pretrained tag (`.tv_in1k`) and the prefix `cifar_` may be missing in the file.
        budgets: the budgets that need a target.

    Raises:
        UserError: if the file, the row or a budget's entry is missing, or an entry is not in (0, 100].
    """
    shipped = {p.stem: p for p in SHIPPED.glob("*.csv")}
    path = shipped.get(source, Path(source))
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        raise UserError(f"targets file {source} does not exist{nearest(source, [*shipped, *beside])}; shipped: "
                        f"{', '.join(sorted(shipped))}")
    table = read_rows(source, path)
    plain = row.split(".")[0]
    name = next((n for n in (row, plain, plain.removeprefix("cifar_")) if n in table), None)
    if name is None:
        raise unknown(f"row of targets file {source}", row, table)
    by_value = {}
    for column, text in table[name].items():
        try:
            by_value[round(float(column), 6)] = text
        except (TypeError, ValueError):
            continue  # the name, or a remark
    return [_target(source, name, budget, by_value) for budget in budgets]


def read_rows(source: str, path: Path) -> dict[str, dict[str, str]]:
    """Model -> its line."""
    table: dict[str, dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            for line in csv.DictReader(file):
                name = line.get("model")
                if name in table:
                    raise UserError(f"targets file {source} has two rows for {name}: keep one")
                if name:
                    table[name] = line
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"targets file {source} is not a CSV file: {first_line(error)}") from error
    if not table:
        raise UserError(f"targets file {source} has no column 'model' or no rows: its first line must be "
                        f"model,0.3,0.5,...")
    return table


def _target(source: str, name: str, budget: float, entries: dict[float, str | None]) -> float:
    """One entry as a number in (0, 100]."""
    text = entries.get(budget)
    if text is None or not text.strip():
        there = ", ".join(f"{b:g}" for b, entry in sorted(entries.items()) if entry and entry.strip())
        raise UserError(f"targets file {source} has no entry for {name} at budget {budget:g} (there: {there or 'none'})"
                        f": awareness needs the top-1 that a single-budget network reaches there")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 100.0:
        raise UserError(f"targets file {source}: {text!r} for {name} at budget {budget:g} is not a top-1 in (0, 100]")
    return value
