"""What Hydra instantiates for bdsa's commands: it looks for sweepers in the namespace hydra_plugins alone."""
from __future__ import annotations

from hydra.plugins.sweeper import Sweeper

from bdsa.commands.sweep import pipeline, sweeper


class Grid(sweeper.Grid, Sweeper):
    """Every combination of values, as `bdsa.commands.sweep.sweeper.Grid` does it."""


class Pipeline(pipeline.Pipeline, Sweeper):
    """Both stages of bdsa-pipeline, as `bdsa.commands.sweep.pipeline.Pipeline` does them."""
