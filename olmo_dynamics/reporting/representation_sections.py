"""Sections of representations: their similarity between revisions and layers, the dimensions they use, their directions.

>>> [section.title for section in representations(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Similarity of representations between revisions', …]
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.frames import similarity
from olmo_dynamics.names import Site
from olmo_dynamics.plots import AnyChart
from olmo_dynamics.plots.inside import representation_captions as captions
from olmo_dynamics.plots.page import Section
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told, of_pairs

_MOST_PAIRED = 60  # revisions of a map of pairs, whose page grows with their square
_ALIKE = "the similarity (CKA) of representations"


def representations(store: Drawn) -> Iterator[Section]:
    """Maps of similarity of the middle layer's revisions and of the last revision's layers; dimensions; directions."""
    measured = store.table("representations")
    sites = measured["site"].unique(maintain_order=True).to_list()
    site = Site.RESIDUAL_OUT.value if Site.RESIDUAL_OUT.value in sites else sites[0]
    of_site = measured.filter(site=site)
    layers = of_site["layer"].drop_nulls().unique().sort()
    middle = int(layers[(len(layers) - 1) // 2]) if len(layers) else None
    between_revisions = partial(_revisions, store, site, middle)
    yield store.section("Similarity of representations between revisions", between_revisions, captions.REVISIONS)
    yield store.section("Similarity of representations between layers", partial(_layers, store, site), captions.LAYERS)
    ranks = partial(store.draw, plots.representation_ranks, of_site, probe=True, told=Told("rank_me", "RankMe"))
    yield store.section("Dimensions that representations use", ranks, captions.RANKS)
    directions = partial(store.draw, plots.layer_step_map, of_site, "anisotropy_without_massive", probe=True)
    yield store.section("Anisotropy of representations", directions, captions.ANISOTROPY)


def _revisions(store: Drawn, site: str, layer: int | None) -> AnyChart:
    shown = store.revisions
    if len(shown) > _MOST_PAIRED:
        shown = [shown[round(place * (len(shown) - 1) / (_MOST_PAIRED - 1))] for place in range(_MOST_PAIRED)]
    pairs = similarity(store.store, site, layer)
    kept = pairs.filter(pl.col("revision").is_in(shown), pl.col("other_revision").is_in(shown))
    note = f"{_MOST_PAIRED} of {len(store.revisions)} revisions" if len(shown) < len(store.revisions) else ""
    said = of_pairs(kept, "cka", _ALIKE)
    return store.draw(plots.representation_map, kept, note=note, probe=True, told=said)


def _layers(store: Drawn, site: str) -> AnyChart:
    """Of the last revision that is drawn."""
    last = store.revisions[-1]
    pairs = similarity(store.store, site, across="layers", revisions=last)
    said = of_pairs(pairs, "cka", _ALIKE, between="layer")
    return store.draw(plots.representation_map, pairs, note=f"revision {last}", probe=True, told=said)
