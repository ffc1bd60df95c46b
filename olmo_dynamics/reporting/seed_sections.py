"""Sections of a store of several runs: each training's mean over seeds, with a band and the seeds behind.

>>> [section.title for section in seed_sections(Drawn(open_store("datadecide")))]  # doctest: +SKIP
['Bits per byte by domain', 'Weight norms in the middle layer', 'The residual stream in the middle layer']
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.names import Site
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.drawing import Drawn

_CAPTION = Caption(
    "Each colour is one training: runs of one recipe, size and family, which differ in their seed. The thick line is the mean "
    "over seeds where every seed has a value, the band is one standard deviation (n - 1) to each side, and the thin lines are "
    "the seeds."
)

_MIDDLE = "the middle layer of each run"


def seed_sections(store: Drawn) -> Iterator[Section]:
    """The losses by domain, and norms of weights and of the residual stream in each run's middle layer."""
    if "loss" in store.groups:
        titles = {"cross_entropy": "Loss by domain", "bits_per_byte": "Bits per byte by domain"}
        loss = store.table("loss")
        for name, title in titles.items():
            if name in loss.columns:
                make = partial(store.draw, plots.trajectory, loss, name, probe=True)
                yield store.section(title, make, _CAPTION.of(find(f"loss/{name}")))
    if "parameters" in store.groups:
        weights = _middle(store.table("parameters").filter(pl.col("expert").fill_null(0) == 0))
        make = partial(store.draw, plots.trajectory, weights, "rms", note=_MIDDLE)
        yield store.section("Weight norms in the middle layer", make, _CAPTION.of(find("parameters/rms")))
    if "activations" in store.groups:
        stream = store.table("activations").filter(pl.col("site") == Site.RESIDUAL_OUT.value)
        make = partial(store.draw, plots.trajectory, _middle(stream), "rms", note=_MIDDLE, probe=True)
        yield store.section("The residual stream in the middle layer", make, _CAPTION.of(find("activations/rms")))


def _middle(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of each run's middle layer, and those outside the blocks."""
    layers = frame.drop_nulls("layer").group_by("run").agg(middle=pl.col("layer").unique().sort())
    middle = layers.with_columns(pl.col("middle").list.get(pl.col("middle").list.len() // 2))
    placed = frame.join(middle, on="run", how="left", maintain_order="left")
    return placed.filter(pl.col("layer").is_null() | (pl.col("layer") == pl.col("middle"))).drop("middle")
