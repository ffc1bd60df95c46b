"""Experts chosen together: pairs of one layer or of two, from a store or from published counts of pairs.

>>> across = {(0, 0): 30, (0, 1): 10, (1, 1): 20}  # tokens by their experts of equal rank in two layers
>>> found = co_activation(across, 0, 7, pairs="equal rank", per_token=2, experts=2)
>>> found.select("expert", "partner", "count", "value", "baseline").rows()
[(0, 0, 30, 0.75, 0.5), (0, 1, 10, 0.25, 0.5), (1, 0, 0, 0.0, 0.5), (1, 1, 20, 1.0, 0.5)]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.experts.choices import Choices, unplaced
from olmo_dynamics.store import Store

Pairs = Literal["all", "adjacent", "equal rank"]

_AT_ONCE = 4096  # tokens whose choices are multiplied at once: counts in float32 stay exact


def co_activation(
    source: Store | Choices | Mapping[tuple[int, int], int],
    layer: int,
    later_layer: int | None = None,
    *,
    pairs: Pairs = "all",
    revision: str | None = None,
    per_token: int | None = None,
    experts: int | None = None,
) -> pl.DataFrame:
    """N_ij / N_i: of the tokens sent to expert i of a layer, the share that is sent to expert j too, or by a later layer to j.

    OLMoE, arXiv:2409.02060, equation 6, which counts every pair of a token's experts (`pairs="all"`). The published scripts
    count fewer: within a layer the pairs that are `adjacent` in rank, k / 2 times fewer under random routing, and between two
    layers the pairs of `equal rank`, k times fewer.

    Args:
        source: a store with the group `routing`, choices, or published counts of pairs, expert and partner: count.
        layer: the layer of i.
        later_layer: the layer of j; by default that of i.
        pairs: the pairs that are counted.
        revision: the only revision to count, by default all; of published counts the name that their rows are given.
        per_token: k, needed with published counts.
        experts: the number of experts of published counts, needed with them.

    Returns:
        The leading columns, `layer`, `later_layer`, `expert`, `partner`, `count`, `value` and `baseline` (random routing); no row
        for an expert without tokens, nor within a layer for an expert with itself.

    Raises:
        OptionError: the store has no routing, a layer or revision is not there, pairs cannot be counted so, or published counts
            are given without `per_token` and `experts`.
    """
    _check_pairs(pairs, crosses=later_layer is not None)
    if isinstance(source, Mapping):
        if per_token is None or experts is None:
            raise OptionError("published counts of pairs need per_token and experts; give both")
        together = np.zeros((experts, experts), dtype=np.int64)
        for (expert, partner), count in source.items():
            together[int(expert), int(partner)] = count
        sent = together.sum(axis=1) / _pairs_of_a_routing(pairs, per_token, crosses=later_layer is not None)
        leading = unplaced(1, revision or "published")
        return _table(
            [(0, together, sent)], leading, layer, later_layer, _baseline(pairs, per_token, experts, later_layer)
        )
    choices = Choices.of(source)
    names = choices.leading["revision"].to_list()
    if revision is not None and revision not in names:
        raise OptionError(f"revision must be one of {', '.join(names)} (got {revision})")
    found = []
    for place in range(len(names)) if revision is None else [names.index(revision)]:
        one = choices.at_layer(layer)[place]
        other = one if later_layer is None else choices.at_layer(later_layer)[place]
        there = (one[:, 0] >= 0) & (other[:, 0] >= 0)
        one, other = one[there].astype(np.int64), other[there].astype(np.int64)
        sent = np.bincount(one.ravel(), minlength=choices.experts)
        found.append((place, _together(one, other, pairs, choices.experts, crosses=later_layer is not None), sent))
    return _table(
        found, choices.leading, layer, later_layer, _baseline(pairs, choices.per_token, choices.experts, later_layer)
    )


def most_together(pairs: pl.DataFrame, experts: int = 16) -> pl.DataFrame:
    """The rows of the experts with the largest shares, of each layer and revision, as OLMoE's figure chooses them.

    The pairs are gone through from the largest share on, and their experts taken, until there are `experts` of them; of two
    layers, so many of each.

    Args:
        pairs: a table of `co_activation` of one layer.
        experts: the number of experts to keep.

    Raises:
        OptionError: `experts` is below 2.
    """
    if experts < 2:
        raise OptionError(f"experts must be at least 2 (got {experts})")
    keys = ["revision", "layer", "later_layer"]
    parts = []
    for part in pairs.partition_by(keys, maintain_order=True):
        ranked = part.sort("value", descending=True, maintain_order=True).select("expert", "partner").to_numpy()
        crosses = part["layer"][0] != part["later_layer"][0]
        rows, columns = (ranked[:, 0], ranked[:, 1]) if crosses else (ranked.ravel(), ranked.ravel())
        kept, partners = (list(dict.fromkeys(each.tolist()))[:experts] for each in (rows, columns))
        parts.append(part.filter(pl.col("expert").is_in(kept), pl.col("partner").is_in(partners)))
    return pl.concat(parts) if parts else pairs


def _check_pairs(pairs: str, *, crosses: bool) -> None:
    if pairs not in get_args(Pairs):
        raise OptionError(f"pairs must be all, adjacent or equal rank (got {pairs!r})")
    if crosses and pairs == "adjacent":
        raise OptionError("pairs of two layers must be all or of equal rank (got 'adjacent')")
    if not crosses and pairs == "equal rank":
        raise OptionError("pairs of equal rank need a later_layer; give one, or count all pairs")


def _together(one: np.ndarray, other: np.ndarray, pairs: str, experts: int, *, crosses: bool) -> np.ndarray:
    """N_ij: the tokens of each expert and partner."""
    size = experts * experts
    if pairs != "all":
        first, second = (one, other) if crosses else (one[:, :-1], one[:, 1:])
        counts = np.bincount((first * experts + second).ravel(), minlength=size).reshape(experts, experts)
        return counts if crosses else counts + counts.T
    total = np.zeros((experts, experts))
    for start in range(0, len(one), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        total += _sent(one[rows], experts).T @ _sent(other[rows], experts)
    if not crosses:
        np.fill_diagonal(total, 0)
    return total.astype(np.int64)


def _sent(chosen: np.ndarray, experts: int) -> np.ndarray:
    sent = np.zeros((len(chosen), experts), dtype=np.float32)
    np.put_along_axis(sent, chosen, 1.0, axis=1)
    return sent


def _pairs_of_a_routing(pairs: str, per_token: int, *, crosses: bool) -> int:
    """The pairs that each routing of a token to an expert is counted in."""
    if pairs == "adjacent":
        raise OptionError(
            "published counts of adjacent pairs do not tell how often an expert is chosen; count all pairs"
        )
    return 1 if pairs == "equal rank" else per_token if crosses else per_token - 1


def _baseline(pairs: str, per_token: int, experts: int, later_layer: int | None) -> float:
    """The share under random routing."""
    if later_layer is not None:
        return (1 if pairs == "equal rank" else per_token) / experts
    if experts == 1:
        return 0.0
    of_all = (per_token - 1) / (experts - 1)
    return of_all * 2 / per_token if pairs == "adjacent" else of_all


def _table(
    found: list[tuple[int, np.ndarray, np.ndarray]],
    leading: pl.DataFrame,
    layer: int,
    later_layer: int | None,
    baseline: float,
) -> pl.DataFrame:
    parts = []
    for place, together, sent in found:
        kept = np.broadcast_to((sent > 0)[:, None], together.shape)
        kept = kept if later_layer is not None else kept & ~np.eye(len(sent), dtype=bool)
        experts, partners = np.nonzero(kept)
        counts = together[experts, partners]
        columns = {"expert": experts, "partner": partners, "count": counts, "value": counts / sent[experts]}
        numbers = pl.DataFrame(
            {name: each.astype(np.float64 if name == "value" else np.int64) for name, each in columns.items()}
        )
        repeated = leading[np.full(len(experts), place)]
        parts.append(pl.concat([repeated, numbers], how="horizontal"))
    whole = pl.concat(parts) if parts else leading.clear()
    labels = [
        pl.lit(layer, pl.Int64).alias("layer"),
        pl.lit(layer if later_layer is None else later_layer, pl.Int64).alias("later_layer"),
    ]
    return whole.with_columns(*labels, pl.lit(baseline).alias("baseline")).select(
        *leading.columns, "layer", "later_layer", "expert", "partner", "count", "value", "baseline"
    )
