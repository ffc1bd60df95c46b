"""Sections of gradients: norms, growth along the depth, noise, the residual stream, rows of the embedding.

>>> [section.title for section in gradients(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Total gradient norm', 'Gradient norms', 'Growth along the depth', 'Gradient noise scale']
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.frames import per_revision, row_gradients
from olmo_dynamics.plots.inside import inside_captions as captions
from olmo_dynamics.plots.inside.gradient_curves import pooled_gradients
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told

_TOTAL = Told("total_probe_l2_norm", "the norm of the gradient of the whole probe")
_GROWTH = Told("lambda_vecmean_gradient", "the growth exponent of gradients")
_NOISE = Told("noise_scale", "the gradient noise scale")


def gradients(store: Drawn) -> Iterator[Section]:
    """The total norm, norms by tensor, growth exponents and the noise scale; of revisions without steps, norms by depth."""
    measured = store.table("gradients")
    tensors = pooled_gradients(measured)
    note = "" if tensors.height == measured.height else "the experts of a layer taken together"
    if not store.has_steps:
        blocks = tensors.filter(pl.col("layer").is_not_null())
        by_depth = partial(store.draw, plots.depth_profile, blocks, "probe_l2_norm", note=note, probe=True)
        yield store.section("Gradient norms by depth", by_depth, captions.GRADIENT_NORMS)
        return
    totals = store.only(per_revision(store.store, "gradients"))
    size = partial(store.draw, plots.gradient_size, totals, probe=True, told=_TOTAL)
    yield store.section("Total gradient norm", size, captions.GRADIENT_SIZE)
    norms = partial(store.draw, plots.gradient_norms, tensors, "probe_l2_norm", note=note, probe=True)
    yield store.section("Gradient norms", norms, captions.GRADIENT_NORMS)
    growth = partial(store.draw, plots.growth_exponents, totals, probe=True, told=_GROWTH)
    yield store.section("Growth along the depth", growth, captions.GROWTH)
    noise = partial(store.draw, plots.gradient_noise, totals, probe=True, told=_NOISE)
    yield store.section("Gradient noise scale", noise, captions.NOISE)


def gradient_stream(store: Drawn) -> Iterator[Section]:
    """The gradient of the residual stream by layer and step, or by depth alone."""
    found = store.table("gradient_stream").filter(pl.col("layer").is_not_null())
    chart = plots.norms_panel if store.over_time else plots.depth_profile
    caption = captions.STREAM_GRADIENT.of(find("gradient_stream/l2_norm"))
    make = partial(store.draw, chart, found, "l2_norm", probe=True)
    yield store.section("Gradients of the residual stream", make, caption)


def gradient_rows(store: Drawn) -> Iterator[Section]:
    """Bands of the gradient norms of embedding rows."""
    rows = store.only(row_gradients(store.store))
    bands = partial(plots.distribution_fan, quantity="gradient_rows/row_l2")
    median = Told("value", "the median gradient norm of embedding rows", rows.filter(pl.col("quantile") == 0.5))
    make = partial(store.draw, bands, rows, probe=True, told=median)
    yield store.section("Gradients of embedding rows", make, captions.ROW_GRADIENTS)
