"""Quantiles of the gradient norms of embedding rows.

>>> row_gradients(open_store("run.zarr")).filter(quantile=0.5)  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.store import Store

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def row_gradients(store: Store) -> pl.DataFrame:
    """One row per revision, embedding and quantile: the quantile of `gradient_rows/row_l2` over rows with a gradient, as `value`.

    Raises:
        OptionError: the store has no group `gradient_rows`.
    """
    if "gradient_rows" not in store.groups:
        raise OptionError(f"{store.path} must hold the group gradient_rows; collect it with --record gradient_rows")
    grid = Grid(store)
    norms = grid.array("gradient_rows", "row_l2")
    found = np.full((*norms.shape[:2], len(QUANTILES)), np.nan)
    for place in np.ndindex(norms.shape[:2]):
        held = norms[place][np.isfinite(norms[place]) & (norms[place] > 0)]
        if held.size:
            found[place] = np.quantile(held.astype(np.float64), QUANTILES)
    every = np.isfinite(found)
    revision, embedding, level = np.nonzero(every)
    columns = [column.gather(revision) for column in grid.leading]
    columns += [column.gather(embedding) for column in grid.labels("embedding")]
    return pl.DataFrame([*columns, pl.Series("quantile", np.array(QUANTILES)[level]), pl.Series("value", found[every])])
