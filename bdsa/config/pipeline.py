"""What `bdsa-pipeline` takes beside a training's settings."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bdsa.config.names import check_folder
from bdsa.config.schema import setting_names, unknown_setting
from bdsa.config.setting import setting
from bdsa.config.settings import TrainConfig
from bdsa.errors import UserError

STAGE_SETTINGS = ("pipeline.single.", "pipeline.multi.")
MADE_HERE = {"awareness": "pipeline.metrics=[l1]", "awareness.metric": "pipeline.metrics=[l1]",
             "awareness.targets": "nothing: it makes its own targets",
             "awareness.row": "nothing: it makes its own targets", "name": "nothing: it has many runs"}


@dataclass
class PipelineSettings:
    metrics: list[str] = setting(["none", "l2"], "a run of all budgets for each", choices=("none", "l1", "l2"))
    single: dict[str, Any] = setting({}, "settings of the single-budget runs alone: .recipe.epochs=100")
    multi: dict[str, Any] = setting({}, "settings of the runs of all budgets alone")

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        if not self.metrics or len({*self.metrics}) < len(self.metrics):
            raise UserError(f"pipeline.metrics={self.metrics}: give at least one of none, l1, l2, and each once")
        for stage, values in (("single", self.single), ("multi", self.multi)):
            for name in flat_settings(values):
                if name in (*MADE_HERE, "out", "budgets.targets"):
                    raise UserError(f"pipeline.{stage}.{name} is the pipeline's own to set: leave it out")
                if name not in setting_names(TrainConfig) and not name.startswith("model.args."):
                    raise unknown_setting(name, TrainConfig)


@dataclass
class PipelineConfig(TrainConfig):
    """Everything that `bdsa-pipeline` takes."""
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    out: str = setting("runs/pipeline", "where its singles/, multi/, targets and table go", check=check_folder)

    def check(self) -> None:
        """Raise UserError for the first value that breaks a rule."""
        super().check()
        self.pipeline.check()


def flat_settings(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
