"""Sections of the built-in groups: which plots, and from which rows; the look of each is decided in `plots`.

>>> [section.title for section in sections(Drawn(open_store("olmo2-1b.zarr")))]  # doctest: +SKIP
['Loss by domain', 'Bits per byte by domain', 'Weight norms, layer by layer', …]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import macro_average, pool_experts
from olmo_dynamics.names import Site
from olmo_dynamics.plots import AnyChart, captions
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.declared import declared_sections
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.weight_sections import moved_weights, optimizer, predictions, spectra

_STREAM = (Site.EMBEDDING.value, Site.RESIDUAL_OUT.value)
_FAN_ROLES = ("q_proj", "o_proj", "gate_proj", "down_proj")
_THRESHOLDS = (6.0, 3.0)  # multiples of a token's own RMS; the first that some feature reaches is drawn


def sections(store: Drawn) -> Iterator[Section]:
    """The sections of every group of a store; of a group without sections of its own here, those of its declaration."""
    drawers: dict[str, tuple[Callable[[Drawn], Iterator[Section]], ...]] = {
        "loss": (_loss,),
        "parameters": (_weights,),
        "sketches": (moved_weights,),
        "spectra": (spectra,),
        "optimizer": (optimizer,),
        "embeddings": (_embeddings,),
        "activations": (_stream, _stream_outliers),
        "outliers": (_births,),
        "logits": (_logits,),
        "routing": (_routing, _experts),
        "tokens": (),  # a curve per token is not a picture
    }
    for group, drawn_by in drawers.items():
        if group in store.groups:
            for each in drawn_by:
                yield from _or_reason(store, group, each)
    if {"embeddings", "sketches"} & set(store.groups):
        yield from _or_reason(store, "embeddings" if "embeddings" in store.groups else "sketches", predictions)
    for group in store.groups:
        if group not in drawers:
            yield from declared_sections(store, group)


def _or_reason(store: Drawn, group: str, drawn_by: Callable[[Drawn], Iterator[Section]]) -> Iterator[Section]:
    """The sections of a group; if its tables cannot be read, one that says why."""
    try:
        yield from drawn_by(store)
    except Exception as error:  # a group that cannot be read takes no other with it
        yield store.reason(group, error, captions.Caption(store.store.group(group).introduction))


def _loss(store: Drawn) -> Iterator[Section]:
    losses = store.table("loss")
    several = losses["domain"].n_unique() > 1
    with_average = pl.concat([losses, macro_average(losses)], how="diagonal_relaxed") if several else losses
    for quantity, title in (("cross_entropy", "Loss by domain"), ("bits_per_byte", "Bits per byte by domain")):
        if quantity == "cross_entropy" or losses[quantity].fill_null(float("nan")).is_finite().any():
            make = partial(store.draw, plots.loss_by_domain, with_average, quantity, probe=True)
            yield store.section(title, make, captions.LOSS)


def _weights(store: Drawn) -> Iterator[Section]:
    measured = store.table("parameters")
    parameters = pool_experts(measured)
    note = "" if len(parameters) == len(measured) else "the experts of a layer taken together"
    in_blocks = parameters.filter(pl.col("layer").is_not_null())
    rms, l2_norm, sparsity = (find(f"parameters/{name}") for name in ("rms", "l2_norm", "norm_sparsity"))
    if not store.has_steps:
        by_depth = partial(store.draw, plots.depth_profile, in_blocks, "rms", note=note)
        yield store.section("Weight norms by depth", by_depth, captions.WEIGHT_CURVES.of(rms))
    panel = partial(store.draw, plots.norms_panel, in_blocks, "rms", note=note)
    yield store.section("Weight norms, layer by layer", panel, captions.NORMS_PANEL.of(rms))
    curves = partial(store.draw, partial(plots.trajectory, color="layer"), parameters, "l2_norm", note=note)
    yield store.section("Weight norms over training", curves, captions.WEIGHT_CURVES.of(l2_norm))
    matrices = in_blocks.filter(~pl.col("role").str.contains("norm"))
    sparse = partial(store.draw, plots.layer_step_map, matrices, "norm_sparsity", note=note)
    yield store.section("Weight outliers", sparse, captions.MAP.of(sparsity))
    yield store.section("The distribution of weights", partial(_fan, store), captions.FAN)


def _fan(store: Drawn) -> AnyChart:
    """Bands of four roles in the middle layer."""
    quantiles = store.table("parameters.element_quantile").filter(pl.col("expert").fill_null(0) == 0)
    layers = quantiles["layer"].drop_nulls().unique().sort()
    middle = int(layers[len(layers) // 2]) if len(layers) else None
    chosen = quantiles.filter(pl.col("role").is_in(_FAN_ROLES), pl.col("layer") == middle)
    if chosen.is_empty():
        raise OptionError(f"it needs quantiles of {', '.join(_FAN_ROLES)} in some layer (got none)")
    note = f"layer {middle}" + ("" if chosen["expert"].is_null().all() else ", expert 0")
    return store.draw(plots.distribution_fan, chosen, note=note)


def _embeddings(store: Drawn) -> Iterator[Section]:
    make = partial(store.draw, plots.embedding_band, store.table("embeddings.row_l2_quantile"))
    yield store.section("Embedding rows", make, captions.EMBEDDINGS)


def _stream(store: Drawn) -> Iterator[Section]:
    stream = store.table("activations").filter(pl.col("site").is_in(_STREAM))
    make = partial(store.draw, plots.depth_profile, stream, "rms", probe=True)
    yield store.section("The residual stream by depth", make, captions.DEPTH.of(find("activations/rms")))


def _stream_outliers(store: Drawn) -> Iterator[Section]:
    blocks = store.table("activations").filter(pl.col("site") == Site.RESIDUAL_OUT.value)
    titles = {
        "feature_kurtosis": "Outliers in the residual stream: kurtosis over features",
        "max_median_ratio": "Outliers in the residual stream: the largest feature of a token",
    }
    for quantity, title in titles.items():
        make = partial(store.draw, plots.norms_panel, blocks, quantity, probe=True)
        yield store.section(title, make, captions.ACTIVATION_OUTLIERS.of(find(f"activations/{quantity}")))


def _births(store: Drawn) -> Iterator[Section]:
    yield store.section("Births of outlier features", partial(_first_births, store), captions.BIRTHS)


def _first_births(store: Drawn) -> AnyChart:
    """Births at the highest threshold that some feature reaches."""
    for threshold in _THRESHOLDS:
        born = store.births(threshold)
        if born["is_outlier"].any():
            note = f"threshold {threshold:g} times the token's own RMS"
            return store.draw(plots.outlier_births, born, note=note, probe=True)
    lowest = _THRESHOLDS[-1]
    raise OptionError(f"no feature reaches {lowest:g} times the token's own RMS in enough layers and tokens")


def _logits(store: Drawn) -> Iterator[Section]:
    make = partial(store.draw, plots.trajectory, store.table("logits"), "lse_mean", probe=True)
    yield store.section("Logits of the head", make, captions.LOGITS.of(find("logits/lse_mean")))


def _routing(store: Drawn) -> Iterator[Section]:
    layers = store.table("routing")
    panel = partial(store.draw, plots.norms_panel, layers, "load_imbalance", probe=True)
    imbalance = captions.LOAD_IMBALANCE.of(find("routing/load_imbalance"))
    yield store.section("Load over experts, layer by layer", panel, imbalance)
    curves = partial(store.draw, partial(plots.trajectory, color="layer"), layers, "router_z", probe=True)
    yield store.section("Size of the router's logits", curves, captions.ROUTER_LOGITS.of(find("routing/router_z")))
    yield store.section("Router saturation", partial(_saturation, store), captions.SATURATION)


def _saturation(store: Drawn) -> AnyChart:
    if len(store.revisions) < 2:
        raise OptionError(f"it needs at least two revisions to compare (got {len(store.revisions)})")
    return store.draw(plots.saturation, store.saturation(), probe=True)


def _experts(store: Drawn) -> Iterator[Section]:
    loads = partial(_three_layers, store, "routing.expert_load")
    yield store.section(
        "Use of experts", lambda: store.draw(plots.expert_load, loads(), probe=True), captions.EXPERT_LOAD
    )
    yield store.section("Specialisation of experts", partial(_specialisation, store), captions.SPECIALISATION)


def _specialisation(store: Drawn) -> AnyChart:
    """Bars of the last revision."""
    shares = _three_layers(store, "routing.domain_specialisation")
    last = shares.filter(pl.col("revision") == shares["revision"][-1])

    def chart(frame: pl.DataFrame, *, x: str, style: plots.Style) -> AnyChart:
        return plots.domain_specialisation(frame, style=style)

    return store.draw(chart, last, note=f"revision {last['revision'][0]}", probe=True)


def _three_layers(store: Drawn, name: str) -> pl.DataFrame:
    """Only the first layer, the middle one and the last, for which a page has room."""
    frame = store.table(name)
    layers = frame["layer"].unique().sort()
    if layers.is_empty():
        raise OptionError(f"the table {name} must hold values to draw (got none)")
    return frame.filter(pl.col("layer").is_in([layers[0], layers[(len(layers) - 1) // 2], layers[-1]]))
