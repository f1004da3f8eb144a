"""Sweeps that survive, one job of them, and the two-stage pipeline."""
