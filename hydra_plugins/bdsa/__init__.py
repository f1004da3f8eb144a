"""What Hydra instantiates for bdsa's commands: it looks for sweepers in the namespace hydra_plugins alone."""
from __future__ import annotations

from hydra.plugins.sweeper import Sweeper

from bdsa import pipeline_sweeper, sweeper


class Grid(sweeper.Grid, Sweeper):
    """Every combination of values, as `bdsa.sweeper.Grid` does it."""


class Pipeline(pipeline_sweeper.Pipeline, Sweeper):
    """Both stages of bdsa-pipeline, as `bdsa.pipeline_sweeper.Pipeline` does them."""
