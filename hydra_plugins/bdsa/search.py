"""Optuna's search, an extra, over jobs that survive; apart, because it cannot be imported without the extra."""
from __future__ import annotations

from typing import Any

from bdsa.commands.sweep.sweeper import Survivor, reporting
from bdsa.errors import UserError

try:
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
except ImportError:
    OptunaSweeper = None

if OptunaSweeper is not None:
    class Search(OptunaSweeper):
        """hydra-optuna-sweeper; a job that is asked for twice, or was finished before, is not trained again."""

        def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
            """Hydra's interface: what to sweep, and with what to launch it."""
            super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
            self.sweeper.launcher = Survivor(self.sweeper.launcher, config, hydra_context, task_function)

        def sweep(self, arguments: list[str]) -> None:
            """Search and report: the jobs, and the best one's settings."""
            with reporting(self.sweeper.launcher, best=True):
                try:
                    super().sweep(arguments)
                except ValueError as error:  # Optuna's, where no job has finished
                    if isinstance(error, UserError) or self.sweeper.launcher.finished():
                        raise
