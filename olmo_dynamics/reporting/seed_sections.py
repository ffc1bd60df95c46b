"""Sections of a store of several runs: each training's mean over seeds, with a band and the seeds behind.

>>> [section.title for section in seed_sections(Drawn(open_store("datadecide")))]  # doctest: +SKIP
['Bits per byte by domain', 'Weight norms in the middle layer', 'The residual stream in the middle layer', …]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from olmo_dynamics import plots
from olmo_dynamics.plots import AnyChart
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.page import Section
from olmo_dynamics.reporting.chapters import chapter_of
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.seed_figures import SeedFigure, figure_rows, figures_of, panels

_CAPTION = Caption(
    "Each colour is one training: runs of one recipe, size and family, which differ in their seed. The thick line is the mean "
    "over seeds where every seed has a value, the band is one standard deviation (n - 1) to each side, and the thin lines are "
    "the seeds."
)

_OF_WEIGHTS = frozenset({"parameters", "sketches", "spectra", "head_spectra", "optimizer", "embeddings", "experts"})
"""Groups whose numbers come from the weights alone, without a probe."""


def seed_sections(store: Drawn) -> Iterator[Section]:
    """A section for each figure of each group, with the chapter of the group."""
    for figure in figures_of(store):
        section = store.section(figure.title, partial(_chart, store, figure), _caption(store, figure))
        yield replace(section, chapter=chapter_of(figure.group))


def _chart(store: Drawn, figure: SeedFigure) -> AnyChart:
    rows, on_probe = figure_rows(store, figure), figure.group not in _OF_WEIGHTS
    return store.draw(
        plots.trajectory, rows, figure.column, note=figure.note, probe=on_probe, facet=panels(figure, rows)
    )


def _caption(store: Drawn, figure: SeedFigure) -> Caption:
    """The words of every figure, with the source and the note of the quantity."""
    if figure.column != figure.quantity:
        return _CAPTION
    quantity = store.store.quantity(figure.group, figure.quantity)
    if not quantity.source:
        return replace(_CAPTION, text=f"{_CAPTION.text} {quantity.note}".strip())
    return _CAPTION.of(quantity)
