"""What Hydra instantiates for bdsa's commands: it looks for sweepers in the namespace hydra_plugins alone."""
from __future__ import annotations

from hydra.plugins.sweeper import Sweeper

from bdsa import sweeper


class Grid(sweeper.Grid, Sweeper):
    """Every combination of values, as `bdsa.sweeper.Grid` does it."""
