"""The bytes of numbers that a search for findings reads, and the kinds of findings that fit into a limit.

>>> cost(Grid(open_store("olmo2-1b.zarr")))  # doctest: +SKIP
SearchCost(series=2822400, features=57671680)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.rules.watched import is_watched
from olmo_dynamics.quantities.declaration import Quantity

FEATURES = "activations/feature_rms"
"""The quantity in which outliers are searched, a number per feature, layer and site."""


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Bytes of the watched series, and of the sizes of features."""

    series: int
    features: int


def cost(grid: Grid) -> SearchCost:
    """The cost of a whole search of a store."""
    store = grid.store
    watched = [
        quantity
        for group in store.groups
        for quantity in store.quantities(group)
        if is_watched(quantity, store.group(group).axes)
    ]
    features = [store.quantity(*FEATURES.split("/"))] if grid.has(*FEATURES.split("/")) else []
    return SearchCost(sum(_nbytes(grid, each) for each in watched), sum(_nbytes(grid, each) for each in features))


def _nbytes(grid: Grid, quantity: Quantity) -> int:
    cells = math.prod(len(grid.store.axis(axis)) for axis in quantity.axes)
    return len(grid.leading) * cells * np.dtype(quantity.dtype).itemsize
