"""What can be configured in bdsa-benchmark; like `bdsa.config`, it imports nothing slow."""
from __future__ import annotations

from dataclasses import dataclass, field

from bdsa.config import TrainConfig, one_of, positive

BENCHMARKS = {"training": "bdsa.training_speed"}  # what= -> the module whose `benchmark(config)` measures it


@dataclass
class TimingConfig:
    rounds: int = 5                     # that are timed, each with every kind of step in turn; the median counts
    warmup: int = 1                     # rounds before them
    steps: int = 12                     # of a round, at least: up to whole turns of the budgets and whole updates


@dataclass
class BenchmarkConfig(TrainConfig):
    """Everything that `bdsa-benchmark` takes: a training's settings, which are what is measured, and its own."""
    out: str | None = None              # folder of benchmark.json; default: one of its own under runs/benchmarks
    what: str = "training"              # training
    timing: TimingConfig = field(default_factory=TimingConfig)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        one_of("benchmark", self.what, tuple(BENCHMARKS))
        positive(self.timing, "timing", "rounds", "warmup", "steps")
        super().check()
