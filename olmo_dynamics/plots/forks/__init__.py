"""Forks beside the run that they come from."""

from olmo_dynamics.plots.forks.difference_curves import fork_differences

__all__ = ["fork_differences"]
