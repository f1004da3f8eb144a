"""The runs of a pipeline that belong in one table."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bdsa.budgets import Budgets
from bdsa.commands.sweep.plan import PlannedJob


@dataclass
class Study:
    """Runs that belong in one table: they differ in budget, awareness and seed alone.

    Attributes:
        words: the settings that they share.
        seeds: the command lines of its seeds, each without the stage's own settings.
        budgets: to train alone and together.
        singles: budget -> its jobs, one a seed.
        multi: metric -> its jobs, one a seed.
    """
    words: list[str]
    budgets: Budgets
    seeds: list[list[str]] = field(default_factory=list)
    singles: dict[float, list[PlannedJob]] = field(default_factory=dict)
    multi: dict[str, list[PlannedJob]] = field(default_factory=dict)
    targets: Path | None = None
