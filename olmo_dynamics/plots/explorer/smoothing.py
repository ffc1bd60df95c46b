"""Exponential moving averages of series, as tools that log training draw them.

>>> frame = pl.DataFrame({"step": [0, 1, 2], "loss": [4.0, 2.0, 2.0]})
>>> smoothed(frame, "loss", "step", [], 0.5)["loss"].round(4).to_list()
[4.0, 2.6667, 2.2857]
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def smoothed(frame: pl.DataFrame, value: str, x: str, series: Sequence[str], weight: float) -> pl.DataFrame:
    """The table with each series' values averaged over its past along `x`; rows keep their order, and weight 0 changes nothing.

    s_t = Σ_i w^i v_{t-i} / Σ_i w^i over the revisions up to t: the debiased exponential average, by revision and not by step.
    """
    if not weight:
        return frame
    mean = pl.col(value).ewm_mean(alpha=1 - weight, adjust=True)
    ordered = frame.with_row_index("_place").sort(x, maintain_order=True)
    averaged = ordered.with_columns(mean.over(list(series)) if series else mean)
    return averaged.sort("_place").drop("_place")
