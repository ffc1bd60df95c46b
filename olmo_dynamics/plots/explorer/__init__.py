"""Exploring a store: one picture of menus, a map, curves and a profile, in notebooks and in a live page."""

from olmo_dynamics.plots.explorer.explored import Explored
from olmo_dynamics.plots.explorer.overview import overview
from olmo_dynamics.plots.explorer.view import ExploredView, look
from olmo_dynamics.plots.explorer.widget import Explorer, explore

__all__ = ["Explored", "ExploredView", "Explorer", "explore", "look", "overview"]


def __dir__() -> list[str]:
    return sorted(__all__)
