"""Sparse execution: compute only where the masks say so, with the results of masked execution."""
