"""Settings of a training that others leave without an effect: they are said, because somebody meant them."""
from __future__ import annotations

from collections.abc import Callable, Collection
from operator import attrgetter

from bdsa.config.settings import TrainConfig

Rule = Callable[[TrainConfig], bool]  # whether the setting has no effect

# What leaves the settings without one, whether it does, and the settings.
RULES: tuple[tuple[str, Rule, tuple[str, ...]], ...] = (
    ("recipe.schedule", lambda c: c.recipe.schedule != "cosine", ("recipe.min_lr",)),
    ("recipe.schedule", lambda c: c.recipe.schedule == "constant" and c.recipe.warmup_epochs > 0,
     ("recipe.warmup_epochs",)),
    ("recipe.schedule", lambda c: c.recipe.schedule != "multistep", ("recipe.milestones", "recipe.decay_rate")),
    ("teacher.kind", lambda c: c.teacher.kind == "none", ("teacher.temperature", "teacher.weight")),
    ("teacher.kind", lambda c: c.teacher.kind in ("none", "self"), ("teacher.name", "teacher.weights")),
    ("awareness.metric", lambda c: c.awareness.metric == "none", ("awareness.targets", "awareness.row")),
    ("budgets.schedule", lambda c: c.budgets.schedule != "sandwich", ("budgets.between",)),
)


def unused(config: TrainConfig, named: Collection[str]) -> list[str]:
    """A sentence for each setting of a command line that has no effect.

    Args:
        named: the settings that the command line names.
    """
    return [f"{name}={attrgetter(name)(config)} has no effect with {cause}={attrgetter(cause)(config)}"
            for cause, applies, names in RULES if applies(config) for name in names if name in named]
