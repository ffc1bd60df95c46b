"""Sections of models with experts: routing over time, OLMoE's four figures, and the likeness of experts.

>>> [section.title for section in token_ids(Drawn(open_store("olmoe.zarr")))]  # doctest: +SKIP
['Specialisation in token ids', 'Specialisation in token ids, expert by expert', …]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise

import polars as pl

from olmo_dynamics import frames, plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import AnyChart, captions
from olmo_dynamics.plots.experts import expert_captions
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told

_PAIRED = 16  # experts of a map, as in OLMoE's figure
_LOAD = Told("value", "the share of tokens that an expert gets")
_SETTLED = Told("saturation", "router saturation")
_OF_DOMAIN = "the share of a domain's tokens that are sent to an expert"
_OF_IDS = "the specialisation in token ids"
_PARTNERS = "the share of an expert's tokens that also go to its partner"
_COSINE = "the cosine of the weights of two experts"

Loaded = Callable[[], frames.Choices]


def routing(store: Drawn) -> Iterator[Section]:
    """Loads, the router's logits, and how far its choices settle."""
    layers, choices = store.table("routing"), cache(partial(frames.Choices.of, store.store))
    panel = partial(store.draw, plots.norms_panel, layers, "load_imbalance", probe=True)
    imbalance = captions.LOAD_IMBALANCE.of(find("routing/load_imbalance"))
    yield store.section("Load over experts, layer by layer", panel, imbalance)
    curves = partial(store.draw, partial(plots.trajectory, color="layer"), layers, "router_z", probe=True)
    yield store.section("Size of the router's logits", curves, captions.ROUTER_LOGITS.of(find("routing/router_z")))
    if "router_margin" in layers.columns:
        margins = partial(store.draw, partial(plots.trajectory, color="layer"), layers, "router_margin", probe=True)
        yield store.section("Margin of the router", margins, expert_captions.MARGIN.of(find("routing/router_margin")))
    yield store.section("Router saturation", partial(_saturation, store, choices), captions.SATURATION)
    yield store.section("Churn of routing", partial(_churn, store, choices), expert_captions.CHURN)


def experts(store: Drawn) -> Iterator[Section]:
    """Loads over time, specialisation in domains, and experts that are chosen together."""
    choices = cache(partial(frames.Choices.of, store.store))
    loads = partial(_three_layers, store, "routing.expert_load")
    yield store.section(
        "Use of experts", lambda: store.draw(plots.expert_load, loads(), probe=True, told=_LOAD), captions.EXPERT_LOAD
    )
    yield store.section("Specialisation of experts", partial(_specialisation, store), captions.SPECIALISATION)
    within, across = partial(_together, store, choices), partial(_across, store, choices)
    yield store.section("Experts chosen together", within, expert_captions.CO_ACTIVATION)
    if store.store.axis("layer").labels.max() > 0:
        yield store.section("Experts chosen by two layers", across, expert_captions.ACROSS_LAYERS)


def token_ids(store: Drawn) -> Iterator[Section]:
    """Specialisation in token ids of the last revision, by layer and by expert, and over time."""
    name = "routing.vocabulary_specialisation"
    if name not in store.store.tables:
        return
    shares = store.table(name)
    by_layer = partial(_of_last, store, plots.vocabulary_specialisation, shares, _OF_IDS)
    yield store.section("Specialisation in token ids", by_layer, expert_captions.VOCABULARY)
    yield store.section(
        "Specialisation in token ids, expert by expert",
        partial(_by_expert, store),
        expert_captions.VOCABULARY_OF_EXPERTS,
    )
    curves = partial(plots.trajectory, color="layer")
    named = shares.rename({"value": "vocabulary_specialisation"})
    over_time = partial(store.draw, curves, named, "vocabulary_specialisation", probe=True, facet="vocabulary")
    yield store.section("Specialisation in token ids over training", over_time, expert_captions.VOCABULARY_IN_TIME)


def likeness(store: Drawn) -> Iterator[Section]:
    """Cosines between experts' weights: the middle layer of the last revision, and means over time."""
    yield store.section("Likeness of experts", partial(_cosines, store), expert_captions.LIKENESS)
    curves = partial(plots.trajectory, color="layer")
    means = partial(store.draw, curves, store.table("experts"), "mean_cosine", facet="matrix")
    yield store.section(
        "Likeness of experts over training", means, expert_captions.LIKENESS_IN_TIME.of(find("experts/mean_cosine"))
    )


def _saturation(store: Drawn, choices: Loaded) -> AnyChart:
    _check_several(store)
    every = [frames.saturation(choices(), top=top) for top in sorted({1, choices().per_token})]
    return store.draw(plots.saturation, store.only(pl.concat(every)), probe=True, told=_SETTLED)


def _churn(store: Drawn, choices: Loaded) -> AnyChart:
    _check_several(store)
    return store.draw(
        partial(plots.trajectory, color="layer"), store.only(frames.churn(choices())), "churn", probe=True
    )


def _check_several(store: Drawn) -> None:
    if len(store.revisions) < 2:
        raise OptionError(f"it needs at least two revisions to compare (got {len(store.revisions)})")


def _specialisation(store: Drawn) -> AnyChart:
    return _of_last(
        store, plots.domain_specialisation, _three_layers(store, "routing.domain_specialisation"), _OF_DOMAIN
    )


def _together(store: Drawn, choices: Loaded) -> AnyChart:
    layers = _first_middle_last(list(choices().layers))
    found = [frames.co_activation(choices(), layer, revision=store.revisions[-1]) for layer in layers]
    return _of_last(store, plots.co_activation, frames.most_together(pl.concat(found), _PAIRED), _PARTNERS)


def _across(store: Drawn, choices: Loaded) -> AnyChart:
    layers = _first_middle_last(list(choices().layers))
    pairs = pairwise(layers)
    found = [frames.co_activation(choices(), one, other, revision=store.revisions[-1]) for one, other in pairs]
    return _of_last(store, plots.co_activation, frames.most_together(pl.concat(found), _PAIRED), _PARTNERS)


def _by_expert(store: Drawn) -> AnyChart:
    found = _middle(store.table("routing.expert_vocabulary_specialisation"))
    return _of_last(store, plots.vocabulary_specialisation, found, _OF_IDS)


def _cosines(store: Drawn) -> AnyChart:
    return _of_last(store, plots.expert_similarity, _middle(store.table("experts.cosine")), _COSINE)


def _of_last(store: Drawn, draw: Callable[..., AnyChart], frame: pl.DataFrame, noun: str) -> AnyChart:
    """A picture of the last revision, which has no time axis, with a sentence about its `value`."""
    if frame.is_empty():
        raise OptionError("the table must hold values to draw (got none)")
    last = frame.filter(pl.col("revision") == frame["revision"][-1])

    def chart(table: pl.DataFrame, *, x: str, style: plots.Style) -> AnyChart:
        return draw(table, style=style)

    note = f"revision {last['revision'][0]}"
    return store.draw(chart, last, note=note, probe=True, told=Told("value", noun))


def _three_layers(store: Drawn, name: str) -> pl.DataFrame:
    """Only the first layer, the middle one and the last, for which a page has room."""
    frame = store.table(name)
    if frame.is_empty():
        raise OptionError(f"the table {name} must hold values to draw (got none)")
    return frame.filter(pl.col("layer").is_in(_first_middle_last(frame["layer"].unique().sort().to_list())))


def _first_middle_last(layers: list[int]) -> list[int]:
    return sorted({layers[0], layers[(len(layers) - 1) // 2], layers[-1]})


def _middle(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of the middle layer."""
    layers = frame["layer"].unique().sort().to_list()
    return frame.filter(pl.col("layer") == layers[(len(layers) - 1) // 2]) if layers else frame
