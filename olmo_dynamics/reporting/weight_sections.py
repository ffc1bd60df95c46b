"""Sections of weights through time: distances and paths from sketches, spectra, the optimiser's state.

>>> [section.title for section in moved_weights(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Distance from the first weights', 'Angle to the first weights', …]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import embedding_decay, rotation
from olmo_dynamics.plots import AnyChart
from olmo_dynamics.plots.page import Section
from olmo_dynamics.plots.weights import weight_captions as captions
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told, of_pairs, of_path

_FAN_ROLES = ("q_proj", "o_proj", "gate_proj", "down_proj")
_MOST_PAIRED = 60  # revisions of a map of pairs, whose page grows with their square
_MOVED = {
    "relative": Told("relative", "the relative distance from the first weights"),
    "angle": Told("angle", "the angle to the first weights, in radians,"),
    "successive_cosine": Told("successive_cosine", "the cosine of successive displacements"),
}
_UPDATE = Told("update_rms", "the size of an update over the learning rate")
_DECAYED = Told("measured", "the RMS of embedding rows without gradient")
_TURNED = Told("angle", "the angle between neighbouring revisions, in radians,")


def moved_weights(store: Drawn) -> Iterator[Section]:
    """Distances, angles and turns by layer, the path on a plane, and the similarity of revisions."""
    moved = cache(partial(store.displacement, by="layer"))
    curves = {
        "relative": ("Distance from the first weights", captions.DISPLACEMENT),
        "angle": ("Angle to the first weights", captions.ANGLE),
        "successive_cosine": ("Turns of the path", captions.TURNS),
    }
    for quantity, (title, caption) in curves.items():
        yield store.section(title, partial(_curves, store, moved, quantity), caption)
    yield store.section("The path through weight space", partial(_path, store), captions.PATH)
    yield store.section("Similarity of revisions", partial(_similarity, store), captions.SIMILARITY)


def _curves(store: Drawn, moved: object, quantity: str) -> AnyChart:
    assert callable(moved)
    if len(store.revisions) < 2:
        raise OptionError(f"it needs at least two revisions to compare (got {len(store.revisions)})")
    return store.draw(
        partial(plots.displacement, y=quantity),
        moved(),
        note="all tensors of a layer as one vector",
        told=_MOVED[quantity],
    )


def _path(store: Drawn) -> AnyChart:
    path = store.path()
    return store.draw(plots.weight_path, path, told=of_path(path))


def _similarity(store: Drawn) -> AnyChart:
    shown = store.revisions
    kept = [shown[round(place * (len(shown) - 1) / (_MOST_PAIRED - 1))] for place in range(_MOST_PAIRED)]
    note = f"{_MOST_PAIRED} of {len(shown)} revisions" if len(shown) > _MOST_PAIRED else ""
    pairs = store.pairs(kept if note else shown)
    said = of_pairs(pairs, "cosine", "the cosine of weights")
    return store.draw(plots.weight_similarity, pairs, note=note, told=said)


def predictions(store: Drawn) -> Iterator[Section]:
    """Decay of embedding rows and rotation of matrices beside their predictions, each only where its conditions hold."""
    if not store.over_time:
        return
    charts = (
        ("Embedding rows without gradient", embedding_decay, plots.embedding_decay, captions.DECAY, _DECAYED),
        ("Rotation between revisions", rotation, plots.rotation, captions.ROTATION, _TURNED),
    )
    for title, measure, draw, caption, told in charts:
        with suppress(OptionError):
            frame = store.only(measure(store.store))
            yield store.section(title, partial(store.draw, draw, frame, told=told), caption)


def spectra(store: Drawn) -> Iterator[Section]:
    """Stable ranks of all matrices, and the largest singular values of four in the middle layer."""
    found = store.table("spectra")
    first = found.filter(pl.col("expert").fill_null(0) == 0) if "expert" in found.columns else found
    in_blocks = first.filter(pl.col("layer").is_not_null())
    note = "" if first.height == found.height else "expert 0 of each layer"
    ranks = partial(store.draw, plots.layer_step_map, in_blocks, "stable_rank", note=note)
    yield store.section("Stable ranks", ranks, captions.STABLE_RANK)
    if "spectra.singular_value" in store.store.tables:
        yield store.section("The largest singular values", partial(_fan, store), captions.SINGULAR_VALUES)


def _fan(store: Drawn) -> AnyChart:
    values = store.table("spectra.singular_value")
    layers = values["layer"].drop_nulls().unique().sort()
    middle = int(layers[len(layers) // 2]) if len(layers) else None
    chosen = values.filter(pl.col("role").is_in(_FAN_ROLES), pl.col("layer") == middle)
    if "expert" in chosen.columns:
        chosen = chosen.filter(pl.col("expert").fill_null(0) == 0)
    if chosen.is_empty():
        raise OptionError(f"it needs singular values of {', '.join(_FAN_ROLES)} in some layer (got none)")
    largest = Told("value", "the largest singular value", chosen.filter(pl.col("singular_rank") == 1))
    return store.draw(plots.singular_values, chosen, note=f"layer {middle}", told=largest)


def optimizer(store: Drawn) -> Iterator[Section]:
    """The moments by layer, and what they say of the next update."""
    state = store.table("optimizer")
    if "expert" in state.columns:
        state = state.filter(pl.col("expert").fill_null(0) == 0)
    yield store.section(
        "The state of the optimiser",
        partial(store.draw, plots.optimizer_panel, state, told=_UPDATE),
        captions.OPTIMIZER,
    )
