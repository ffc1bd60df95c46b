"""Plots of what a trainer logged, beside what is measured."""

from olmo_dynamics.plots.logs.logged_panel import training_logs

__all__ = ["training_logs"]
