"""What can be configured in bdsa-benchmark; like `bdsa.config.settings`, it imports nothing slow."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bdsa.config.image_size import check_image_size
from bdsa.config.names import EXECUTIONS, PRECISIONS, check_folder
from bdsa.config.setting import setting
from bdsa.config.settings import TrainConfig
from bdsa.errors import UserError

# what= -> the module whose `benchmark(config, named)` measures it
BENCHMARKS = {"training": "bdsa.commands.benchmark.training", "latency": "bdsa.commands.benchmark.latency",
              "table": "bdsa.commands.benchmark.latency_table"}
PEERS = ("eager", "folded", "compile", "frozen", "onnxruntime", "openvino")
MASKS = ("synthetic", "model")


@dataclass
class TimingConfig:
    rounds: int = setting(5, "that are timed, each with every kind of step in turn; the median counts",
                          above=0, at_most=1e6)
    warmup: int = setting(1, "rounds before them", above=0, at_most=1e6)
    steps: int = setting(12, "of a round, at least: up to whole turns of the budgets and whole updates",
                         above=0, at_most=1e6)
    graph: bool = setting(False, "also time each kind of step with its rounds captured as CUDA graphs")


@dataclass
class LatencyConfig:
    batch_sizes: list[int] = setting([1, 8], "images of an inference; a table and file each", above=0, at_most=1e6)
    checkpoint: str | None = setting(None, "a trained network in place of model=; its budgets, its data")
    masks: str | None = setting(None, "synthetic, or the model's on test images; default: model with a checkpoint",
                                choices=MASKS)
    blob: float = setting(0.15, "synthetic: width of the blobs, as a share of the map's side", at_least=0, at_most=1)
    image_size: Any = setting(None, "synthetic: pixels, or [height,width]; default: the model's own",
                              check=partial(check_image_size, "latency.image_size"))
    execution: str = setting("sparse", "of the adaptive network", choices=EXECUTIONS)
    precision: str | None = setting(None, "of the adaptive network; auto: what it takes by itself; default: float32, "
                                          "and bfloat16 where the processor multiplies it", choices=PRECISIONS)
    peers: list[str] = setting(list(PEERS), "dense engines: all, or some of these", choices=PEERS)
    int8: bool = setting(False, "also time onnxruntime, openvino and the adaptive network in int8, which count apart")
    break_even: bool = setting(True, "also find the density from which masked or a dense engine is faster")
    rounds: int = setting(20, "that are timed, every engine and budget in turn; the median counts",
                          above=0, at_most=1e6)
    seconds: float = setting(0.1, "of a turn, at least, and one inference at least", above=0, at_most=3600)
    profile: bool = setting(False, "also say where the time of every budget goes")

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if not self.batch_sizes:
            raise UserError("latency.batch_sizes is empty: give at least one, such as [1]")
        for size in self.batch_sizes:
            if self.batch_sizes.count(size) > 1:
                raise UserError(f"latency.batch_sizes={self.batch_sizes}: batch size {size} is given twice")
        if not self.peers:
            raise UserError("latency.peers is empty: a speedup needs a dense engine to compare with, such as [eager]")
        if self.masks == "model" and self.checkpoint is None:
            raise UserError("latency.masks=model needs a trained network: latency.checkpoint=PATH")
        if self.image_size is not None and self.asked_masks == "model":
            raise UserError(f"latency.image_size={self.image_size} is of synthetic masks; with the network's own "
                            f"the data decide: give data.image_size={self.image_size}")

    @property
    def quantises(self) -> bool:
        """Whether engines in int8 are timed."""
        return self.int8 or self.precision == "int8"

    @property
    def asked_masks(self) -> str:
        """Whose masks are used, defaults resolved."""
        return self.masks or ("synthetic" if self.checkpoint is None else "model")


@dataclass
class BenchmarkConfig(TrainConfig):
    """Everything that `bdsa-benchmark` takes: a training's settings, which are what is measured, and its own."""
    out: str | None = setting(None, "folder of benchmark.json; default: one of its own under runs/benchmarks; of "
                                "what=table: what to read, runs/benchmarks",
                              check=check_folder)
    what: str = setting("training", "what is measured", choices=tuple(BENCHMARKS))
    timing: TimingConfig = field(default_factory=TimingConfig)    # of what=training
    latency: LatencyConfig = field(default_factory=LatencyConfig)  # of what=latency

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        self.latency.check()
        super().check()
