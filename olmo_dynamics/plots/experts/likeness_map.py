"""The likeness of experts' weights: cosines between the matrices of a layer.

>>> import olmo_dynamics as od
>>> cosines = od.open_store("olmoe.zarr").table("experts.cosine")  # doctest: +SKIP
>>> od.plots.expert_similarity(cosines.filter(revision="main", layer=7))  # doctest: +SKIP
"""

from __future__ import annotations

import polars as pl

from olmo_dynamics.plots.experts.pair_maps import PANEL, pair_map
from olmo_dynamics.plots.table import drawable, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition
from olmo_dynamics.quantities import find


def expert_similarity(frame: pl.DataFrame, *, style: Style = PLAIN) -> AnyChart:
    """A map of the cosines between the weights of a layer's experts, one panel for each matrix, and for each layer.

    Takes the table `experts.cosine` of one revision and a few layers.

    Raises:
        OptionError: a column is missing, there is nothing, or too much, to draw, or there are several revisions.
    """
    require(frame, "layer", "matrix", "expert", "partner", "value")
    several = frame["layer"].n_unique() > 1
    name = pl.format("{}, layer {}", "matrix", "layer") if several else pl.col("matrix")
    rows = drawable(frame.with_columns(name.alias(PANEL)), "value", x=None, also=[PANEL])
    quantity = find("experts/cosine")
    chart = pair_map(rows, "value", quantity, ("expert", "expert"), style=style)
    where = "" if several else f" of layer {frame['layer'][0]}"
    return finalize(chart, f"Likeness of the experts{where}", [definition(quantity), rows.subtitle], style)
