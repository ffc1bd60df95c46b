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
from olmo_dynamics.frames import JoinedStore, macro_average, pool_experts
from olmo_dynamics.names import Site
from olmo_dynamics.plots import AnyChart, captions
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.chapters import chapter_of, in_chapters, within
from olmo_dynamics.reporting.declared import declared_sections
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.expert_sections import experts, likeness, routing, token_ids
from olmo_dynamics.reporting.gradient_sections import gradient_rows, gradient_stream, gradients
from olmo_dynamics.reporting.inside_sections import attention, head_spectra, induction, lens, writes
from olmo_dynamics.reporting.ngram_sections import ngrams
from olmo_dynamics.reporting.representation_sections import representations
from olmo_dynamics.reporting.seed_sections import seed_sections
from olmo_dynamics.reporting.sentences import Told
from olmo_dynamics.reporting.task_sections import evaluations
from olmo_dynamics.reporting.token_sections import head_logits, massive, positions, rows, tokens
from olmo_dynamics.reporting.weight_sections import moved_weights, optimizer, predictions, spectra

_STREAM = (Site.EMBEDDING.value, Site.RESIDUAL_OUT.value)
_FAN_ROLES = ("q_proj", "o_proj", "gate_proj", "down_proj")
_THRESHOLDS = (6.0, 3.0)  # multiples of a token's own RMS; the first that some feature reaches is drawn
_BIRTHS = 40  # revisions of outlier features that are drawn however many places they reach


def sections(store: Drawn) -> Iterator[Section]:
    """The sections of every group of a store, by chapter; a group without sections of its own has those of its declaration."""
    if isinstance(store.store, JoinedStore):
        yield from in_chapters(seed_sections(store))
        return
    yield from in_chapters(_every(store))


def _every(store: Drawn) -> Iterator[Section]:
    """The sections of every group, each with its chapter."""
    drawers: dict[str, tuple[Callable[[Drawn], Iterator[Section]], ...]] = {
        "loss": (_loss, positions),
        "parameters": (_weights,),
        "sketches": (moved_weights,),
        "spectra": (spectra,),
        "optimizer": (optimizer,),
        "embeddings": (_embeddings, rows),
        "activations": (_stream, _stream_outliers),
        "outliers": (_births, massive),
        "head_spectra": (head_spectra,),
        "attention": (attention,),
        "writes": (writes,),
        "lens": (lens,),
        "induction": (induction,),
        "representations": (representations,),
        "logits": (head_logits,),
        "routing": (routing, experts, token_ids),
        "experts": (likeness,),
        "ngram": (ngrams,),
        "tokens": (tokens,),
        "gradients": (gradients,),
        "gradient_stream": (gradient_stream,),
        "gradient_rows": (gradient_rows,),
        "evaluation": (evaluations,),
    }
    for group, drawn_by in drawers.items():
        if group in store.groups:
            for each in drawn_by:
                yield from within(chapter_of(group), _or_reason(store, group, each))
    if {"embeddings", "sketches"} & set(store.groups):
        group = "embeddings" if "embeddings" in store.groups else "sketches"
        yield from within(chapter_of("parameters"), _or_reason(store, group, predictions))
    for group in store.groups:
        if group not in drawers:
            yield from within(chapter_of(group), declared_sections(store, group))


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
    panel = partial(store.draw, _over_layers(store, plots.norms_panel), in_blocks, "rms", note=note)
    words = captions.WEIGHT_CURVES if _of_one(store) else captions.NORMS_PANEL
    yield store.section("Weight norms, layer by layer", panel, words.of(rms))
    curves = partial(store.draw, partial(plots.trajectory, color="layer"), parameters, "l2_norm", note=note)
    yield store.section("Weight norms over training", curves, captions.WEIGHT_CURVES.of(l2_norm))
    matrices = in_blocks.filter(~pl.col("role").str.contains("norm"))
    sparse = partial(store.draw, _over_layers(store, plots.layer_step_map), matrices, "norm_sparsity", note=note)
    words = captions.WEIGHT_CURVES if _of_one(store) else captions.MAP
    yield store.section("Weight outliers", sparse, words.of(sparsity))
    yield store.section("The distribution of weights", partial(_fan, store), captions.FAN)


def _of_one(store: Drawn) -> bool:
    """True if a single revision with a step is drawn, which a time axis says nothing about."""
    return store.has_steps and not store.over_time


def _over_layers(store: Drawn, chart: Callable[..., AnyChart]) -> Callable[..., AnyChart]:
    """A chart over layers and time; of a single revision, its values by depth."""
    return plots.depth_profile if _of_one(store) else chart


def _fan(store: Drawn) -> AnyChart:
    """Bands of four roles in the middle layer."""
    quantiles = store.table("parameters.element_quantile").filter(pl.col("expert").fill_null(0) == 0)
    layers = quantiles["layer"].drop_nulls().unique().sort()
    middle = int(layers[len(layers) // 2]) if len(layers) else None
    chosen = quantiles.filter(pl.col("role").is_in(_FAN_ROLES), pl.col("layer") == middle)
    if chosen.is_empty():
        raise OptionError(f"it needs quantiles of {', '.join(_FAN_ROLES)} in some layer (got none)")
    note = f"layer {middle}" + ("" if chosen["expert"].is_null().all() else ", expert 0")
    median = Told("value", "the median weight", chosen.filter(pl.col("quantile") == 0.5))
    return store.draw(plots.distribution_fan, chosen, note=note, told=median)


def _embeddings(store: Drawn) -> Iterator[Section]:
    norms = store.table("embeddings.row_l2_quantile")
    median = Told("value", "the median norm of embedding rows", norms.filter(pl.col("quantile") == 0.5))
    make = partial(store.draw, plots.embedding_band, norms, told=median)
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
        make = partial(store.draw, _over_layers(store, plots.norms_panel), blocks, quantity, probe=True)
        yield store.section(title, make, captions.ACTIVATION_OUTLIERS.of(find(f"activations/{quantity}")))


def _births(store: Drawn) -> Iterator[Section]:
    yield store.section("Births of outlier features", partial(_first_births, store), captions.BIRTHS)


def _first_births(store: Drawn) -> AnyChart:
    """Births at the highest threshold that some feature reaches."""
    for threshold in _THRESHOLDS:
        born = store.births(threshold)
        if born["is_outlier"].any():
            hits = born.filter("is_outlier", pl.col("fraction") > 0).height
            shown, fewer = store.fewer_revisions(born, cells=hits, least=_BIRTHS)
            note = "; ".join(filter(None, (f"threshold {threshold:g} times the token's own RMS", fewer)))
            sizes = Told("magnitude", "the magnitude of outlier features", born.filter("is_outlier"))
            return store.draw(plots.outlier_births, shown, note=note, probe=True, told=sizes)
    lowest = _THRESHOLDS[-1]
    raise OptionError(f"no feature reaches {lowest:g} times the token's own RMS in enough layers and tokens")
