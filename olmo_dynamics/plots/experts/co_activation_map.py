"""Experts that are chosen together: a map for each layer, or for each pair of layers.

>>> from olmo_dynamics import frames, plots
>>> pairs = frames.co_activation({(0, 1): 3, (1, 0): 2, (1, 1): 1}, 0, 7, pairs="equal rank", per_token=2, experts=2)
>>> plots.co_activation(pairs).to_dict()["title"]["text"]
['Co-activation of experts across layers']
"""

from __future__ import annotations

import polars as pl

from olmo_dynamics.plots.experts.pair_maps import PANEL, pair_map
from olmo_dynamics.plots.table import drawable, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.quantities import find

_LAYERS = ("layer", "later_layer")


def co_activation(frame: pl.DataFrame, *, style: Style = PLAIN) -> AnyChart:
    """A map of N_ij / N_i over expert i and expert j, in panels by layer, or by pair of layers; OLMoE's figure.

    Takes tables of `olmo_dynamics.frames.co_activation` of one revision, several of them stacked; `frames.most_together` keeps
    the experts with the largest shares. Rows whose baseline differs, as those of other kinds of pairs, are best drawn apart.

    Raises:
        OptionError: a column is missing, there is nothing, or too much, to draw, or there are several revisions.
    """
    require(frame, *_LAYERS, "expert", "partner", "value", "baseline")
    names = pl.when(pl.col("layer") == pl.col("later_layer")).then(pl.format("layer {}", "layer"))
    named = frame.with_columns(names.otherwise(pl.format("layer {} to layer {}", *_LAYERS)).alias(PANEL))
    rows = drawable(named.sort(*_LAYERS, "expert", "partner", maintain_order=True), "value", x=None, also=[PANEL])
    crosses = bool((frame["layer"] != frame["later_layer"]).any())
    quantity = find("routing/cross_layer_co_activation" if crosses else "routing/co_activation")
    chart = pair_map(rows, "value", quantity, ("expert i", "expert j"), style=style)
    baselines = ", ".join(f"{each:.3g}" for each in frame["baseline"].unique().sort())
    sent = "sent to expert j of the later layer" if crosses else "sent to expert j too"
    lines = [
        f"Share of the tokens of expert i that are {sent}, N_ij / N_i.",
        f"Random routing would give {baselines}. {rows.subtitle}",
    ]
    return finalize(chart, f"Co-activation of experts{' across layers' if crosses else ''}", lines, style)
