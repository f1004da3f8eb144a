"""What can be configured in bdsa-benchmark; like `bdsa.config.settings`, it imports nothing slow."""
from __future__ import annotations

from dataclasses import dataclass, field

from bdsa.config.names import EXECUTIONS
from bdsa.config.rules import one_of, positive, within
from bdsa.config.settings import TrainConfig
from bdsa.errors import UserError

# what= -> the module whose `benchmark(config, named)` measures it
BENCHMARKS = {"training": "bdsa.commands.benchmark.training", "latency": "bdsa.commands.benchmark.latency"}
PEERS = ("eager", "folded", "compile", "frozen", "onnxruntime", "openvino")
MASKS = ("synthetic", "model")


@dataclass
class TimingConfig:
    rounds: int = 5                     # that are timed, each with every kind of step in turn; the median counts
    warmup: int = 1                     # rounds before them
    steps: int = 12                     # of a round, at least: up to whole turns of the budgets and whole updates


@dataclass
class LatencyConfig:
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8])  # images of an inference; a table and file each
    checkpoint: str | None = None       # a trained network in place of model=; its budgets, its data
    masks: str | None = None            # synthetic | model (on test images); default: model with a checkpoint
    blob: float = 0.15                  # synthetic: width of the blobs, as a share of the map's side
    image_size: int | None = None       # synthetic: pixels; default: the model's own
    execution: str = "sparse"           # of the adaptive network: sparse | auto | masked
    peers: list[str] = field(default_factory=lambda: list(PEERS))  # dense engines: all, or some of these
    rounds: int = 20                    # that are timed, every engine and budget in turn; the median counts
    seconds: float = 0.1                # of a turn, at least, and one inference at least
    profile: bool = False               # also say where the time of every budget goes

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if not self.batch_sizes:
            raise UserError("latency.batch_sizes is empty: give at least one, such as [1]")
        for size in self.batch_sizes:
            if size < 1:
                raise UserError(f"latency.batch_sizes={self.batch_sizes}: batch size {size} is below 1")
            if self.batch_sizes.count(size) > 1:
                raise UserError(f"latency.batch_sizes={self.batch_sizes}: batch size {size} is given twice")
        if not self.peers:
            raise UserError("latency.peers is empty: a speedup needs a dense engine to compare with, such as [eager]")
        for peer in self.peers:
            one_of("peer", peer, PEERS)
        one_of("latency.execution", self.execution, EXECUTIONS)
        positive(self, "latency", "rounds", "seconds")
        within(self, "latency", 0, 1, "blob")
        if self.masks is not None:
            one_of("latency.masks", self.masks, MASKS)
        if self.masks == "model" and self.checkpoint is None:
            raise UserError("latency.masks=model needs a trained network: latency.checkpoint=PATH")
        if self.image_size is not None:
            positive(self, "latency", "image_size")
            if self.asked_masks == "model":
                raise UserError(f"latency.image_size={self.image_size} is of synthetic masks; with the network's own "
                                f"the data decide: give data.image_size={self.image_size}")

    @property
    def asked_masks(self) -> str:
        """Whose masks are used, defaults resolved."""
        return self.masks or ("synthetic" if self.checkpoint is None else "model")


@dataclass
class BenchmarkConfig(TrainConfig):
    """Everything that `bdsa-benchmark` takes: a training's settings, which are what is measured, and its own."""
    out: str | None = None              # folder of benchmark.json; default: one of its own under runs/benchmarks
    what: str = "training"              # training | latency
    timing: TimingConfig = field(default_factory=TimingConfig)    # of what=training
    latency: LatencyConfig = field(default_factory=LatencyConfig)  # of what=latency

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        one_of("benchmark", self.what, tuple(BENCHMARKS))
        positive(self.timing, "timing", "rounds", "warmup", "steps")
        self.latency.check()
        super().check()
