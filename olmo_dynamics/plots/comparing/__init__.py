"""Trainings on one picture, and their differences over seeds."""

from olmo_dynamics.plots.comparing.comparison import CurveComparison, compare

__all__ = ["CurveComparison", "compare"]


def __dir__() -> list[str]:
    return sorted(__all__)
