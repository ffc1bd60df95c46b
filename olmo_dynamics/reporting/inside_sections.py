"""Sections of the inside of a model: attention, writes, the logit lens, induction.

>>> [section.title for section in attention(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Attention entropy', 'Attention sinks', 'Attention logits', 'Attention heads']
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.frames import per_revision, uniform_attention, uniform_prefix_matching
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.plots import AnyChart
from olmo_dynamics.plots.inside import inside_captions as captions
from olmo_dynamics.plots.inside.attention_curves import over_heads
from olmo_dynamics.plots.inside.lens_maps import over_domains
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_HEADS = ("entropy_normalised", "sink_mass", "previous_token_mass")
_ENTROPY = Told("entropy", "the entropy of attention")
_SINKS = Told("sink_rate", "the share of windows with a sink")
_LOGITS = Told("max_logit", "the largest attention logit")
_EVEN = Told("entropy_normalised", "the normalised entropy of attention")
_RATIO = Told("write_ratio", "the size of a write over that of the stream")
_SHARE = Told("logit_share", "the share of the logits")
_WRITE = Told("head_write_l2", "the size of a head's write")
_PREFIX = Told("prefix_matching", "the prefix-matching score")


def attention(store: Drawn) -> Iterator[Section]:
    """Entropy, sinks and logits by layer, and maps of the heads."""
    found = store.table("attention")
    if store.over_time:
        even = sorted(set(uniform_attention(store.store)["entropy"].round(4)))
        entropy = partial(plots.entropy_collapse, uniform=even)
        yield store.section(
            "Attention entropy", partial(store.draw, entropy, found, probe=True, told=_ENTROPY), captions.ENTROPY
        )
        sinks = partial(store.draw, plots.sink_birth, found, probe=True, told=_SINKS)
        yield store.section("Attention sinks", sinks, captions.SINKS)
        logits = partial(store.draw, plots.attention_logits, found, probe=True, told=_LOGITS)
        yield store.section("Attention logits", logits, captions.LOGITS)
    else:
        layers = over_heads(found, mean_entropy=pl.col("entropy").mean())
        by_depth = partial(store.draw, plots.depth_profile, layers, "mean_entropy", probe=True)
        yield store.section("Attention entropy by depth", by_depth, captions.ENTROPY)
    heads = partial(store.draw, partial(plots.head_map, value=_HEADS), found, probe=True, told=_EVEN)
    yield store.section("Attention heads", heads, captions.HEADS)


def head_spectra(store: Drawn) -> Iterator[Section]:
    """Maps of the stable ranks of the heads' projections, a row for each."""
    found = store.table("head_spectra")
    roles = [role for role in _PROJECTIONS if role in found["role"].to_list()]
    keys = [name for name in LEADING if name in found.columns]
    ranks = found.pivot("role", index=[*keys, "layer", "head"], values="head_stable_rank")
    named = ranks.rename({role: f"stable rank of {role}" for role in roles})
    maps = partial(plots.head_map, value=[f"stable rank of {role}" for role in roles])
    ranked = Told("head_stable_rank", "the stable rank of heads", found)
    caption = captions.HEAD_RANKS.of(find("head_spectra/head_stable_rank"))
    yield store.section("Stable ranks of heads", partial(store.draw, maps, named, told=ranked), caption)


def writes(store: Drawn) -> Iterator[Section]:
    """Sizes and directions of writes, shares of the logits, and what each head writes."""
    found = store.table("writes")
    if store.over_time:
        ratios = partial(store.draw, plots.write_ratios, found, probe=True, told=_RATIO)
        yield store.section("Writes to the residual stream", ratios, captions.WRITES)
        if found["logit_share"].fill_null(float("nan")).is_finite().any():
            shares = partial(store.draw, plots.logit_shares, found, probe=True, told=_SHARE)
            yield store.section("Shares of the logits", shares, captions.SHARES)
    else:
        blocks = found.filter(pl.col("layer").is_not_null())
        by_depth = partial(store.draw, plots.depth_profile, blocks, "write_ratio", probe=True, facet="part")
        yield store.section("Writes to the residual stream by depth", by_depth, captions.WRITES)
    heads = store.table("writes.head_write_l2").rename({"value": "head_write_l2"})
    every = partial(store.draw, partial(plots.head_map, value="head_write_l2"), heads, probe=True, told=_WRITE)
    yield store.section("Writes of heads", every, captions.HEAD_WRITES)


def lens(store: Drawn) -> Iterator[Section]:
    """The logit lens by layer and step, or by depth alone."""
    found = store.table("lens")
    if store.over_time:
        note = f"on a sample of {store.store.group('lens').attributes.get('tokens', 0):,} tokens"
        maps = partial(
            store.draw,
            plots.lens_map,
            found,
            note=note,
            told=Told("cross_entropy", "the loss of the lens", over_domains(found)),
        )
        yield store.section("The logit lens", maps, captions.LENS)
    else:
        by_depth = partial(store.draw, plots.depth_profile, over_domains(found), "cross_entropy")
        yield store.section("The logit lens by depth", by_depth, captions.LENS)


def induction(store: Drawn) -> Iterator[Section]:
    """The score of the best head with the loss of repeated tokens, and maps of the heads."""
    found, told = store.table("induction"), store.store.group("induction").attributes
    repeated = int(told.get("repeated_tokens", 0))
    even = uniform_prefix_matching(repeated) if repeated else None
    if store.has_steps:
        yield store.section("Induction", partial(_bump, store, found, even), captions.INDUCTION)
    note = f"uniform attention scores {even:.3g}" if even is not None else ""
    heads = partial(store.draw, partial(plots.head_map, value="prefix_matching"), found, note=note, told=_PREFIX)
    yield store.section("Induction heads", heads, captions.INDUCTION_HEADS)


def _bump(store: Drawn, heads: pl.DataFrame, even: float | None) -> AnyChart:
    losses = store.only(per_revision(store.store, "induction"))
    size = (store.attributes.get("probe") or {}).get("tokenizer_size")
    chart = partial(plots.induction_bump, losses=losses, uniform=even, chance=math.log(size) if size else None)
    return store.draw(chart, heads, told=_PREFIX)
