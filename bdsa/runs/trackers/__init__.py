"""Trackers: views of a run's metrics file on dashboards, all with the same methods and the same metric names."""
