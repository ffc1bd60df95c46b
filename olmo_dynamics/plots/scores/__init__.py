"""Plots of scores: tasks over training, and a statistic against a score."""

from olmo_dynamics.plots.scores.score_relation import score_relation
from olmo_dynamics.plots.scores.task_curves import task_scores

__all__ = ["score_relation", "task_scores"]
