"""Sums of one layer's attention patterns by head, to which sequences are added as they come.

>>> sums = HeadSums(heads=4, count=needed(pairs, LEVEL))  # doctest: +SKIP
>>> sums.add(seen, head_dim=16)  # doctest: +SKIP
>>> sums.measured(pairs)["entropy"]  # doctest: +SKIP

Values of one query are float32 (float64 where the pass is), sums over queries float64.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from olmo_dynamics.recorders.base import Observation
from olmo_dynamics.recorders.inside.largest import Largest, quantile
from olmo_dynamics.recorders.inside.tiles import HIDDEN, Tile, attention_tiles, by_head

LEVEL = 0.999
"""The level of the quantile of logits."""

SINK = 0.3
"""The attention mass on position 0 above which a head has a sink in a window (Gu et al. 2024, arXiv:2410.10781)."""

SINK_QUERIES = 64
"""The first queries of a window that `sink_mass_64` and `sink_rate_64` are taken over, as in the paper."""

OVER_64 = ("sink_mass_64", "sink_rate_64")
"""The means over the first `SINK_QUERIES` queries, which shorter windows do not have."""

_FIRST_VALUE, _OTHER_VALUES = "first_value", "other_values"
_MEANS = ("row_max_mean", "entropy", "entropy_normalised", "mean_distance", "previous_token_mass", "sink_mass",
          "sink_rate", *OVER_64)  # fmt: skip


class HeadSums:
    """Sums over queries, windows and values, each with its count, and the largest logits of each head."""

    def __init__(self, heads: int, count: int) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._max: Tensor | None = None
        self._largest = Largest(count, heads)

    def add(self, seen: Observation, *, head_dim: int) -> None:
        """Add the queries, keys and values of some sequences."""
        real = torch.tensor(seen.mask, device=seen.values.device)
        on_first = []
        for tile in attention_tiles(seen, head_dim=head_dim):
            queries = slice(tile.first_query, tile.first_query + len(tile.visible))
            self._add_tile(tile, real[:, queries], seen.mask[:, queries])
            on_first.append(tile.on_first)
        self._add_sinks(torch.cat(on_first, dim=-1).double(), real, seen.mask)
        self._add_values(by_head(seen.beside["value"], head_dim), real, seen.mask)

    def merge(self, other: HeadSums) -> None:
        """Add the sequences that `other` saw."""
        for name, some in other._sums.items():
            self._sums[name] = self._sums[name] + some if name in self._sums else some
        for name, count in other._counts.items():
            self._counts[name] += count
        if other._max is not None:
            self._max = other._max if self._max is None else torch.maximum(self._max, other._max)
        self._largest.merge(other._largest)

    def measured(self, pairs: int) -> dict[str, Float64[np.ndarray, " heads"]]:
        """Every quantity of `pairs` visible pairs, NaN where it is a mean of nothing."""
        assert self._max is not None
        means = {name: self._mean(name) for name in (*_MEANS, _FIRST_VALUE, _OTHER_VALUES)}
        first, others = (means.pop(name) for name in (_FIRST_VALUE, _OTHER_VALUES))
        top = [quantile(self._largest.of_head(head), pairs, LEVEL) for head in range(len(self._max))]
        ratio = np.divide(first, others, out=np.full_like(first, math.nan), where=others != 0)
        return {
            "max_logit": self._max.cpu().numpy(),
            "logit_quantile_999": np.array(top),
            **means,
            "value_norm_ratio": ratio,
        }

    @property
    def finite(self) -> Bool[np.ndarray, " heads"]:
        """True for the heads whose queries, keys and values hold neither NaN nor Inf."""
        found: np.ndarray = np.isfinite(sum(each.cpu().numpy() for each in self._sums.values()))
        return found

    def _add_tile(
        self, tile: Tile, real: Bool[Tensor, "batch queries"], mask: Bool[np.ndarray, "batch queries"]
    ) -> None:
        largest = torch.where(real[:, None], tile.largest, HIDDEN).amax((0, 2)).double()
        self._max = largest if self._max is None else torch.maximum(self._max, largest)
        shown = tile.logits if mask.all() else torch.where(real[:, None, :, None], tile.logits, HIDDEN)
        self._largest.offer(shown)  # before the logits are overwritten
        several = mask & (tile.visible >= 2)
        later = mask & (np.arange(len(tile.visible)) + tile.first_query >= 1)
        logarithms = torch.tensor(np.log(np.maximum(tile.visible, 2)), device=real.device)
        self._add("row_max_mean", tile.largest, mask)
        self._add("entropy", tile.entropies, mask)
        self._add("entropy_normalised", tile.entropies / logarithms, several)
        self._add("mean_distance", tile.distances, mask)
        self._add("previous_token_mass", tile.on_earlier(1), later)

    def _add_sinks(
        self,
        on_first: Float[Tensor, "batch heads positions"],
        real: Bool[Tensor, "batch positions"],
        mask: Bool[np.ndarray, "batch positions"],
    ) -> None:
        later = mask[:, 1:]
        several = later[:, :1]
        long = mask[:, SINK_QUERIES - 1 : SINK_QUERIES]
        self._add("sink_mass", on_first[..., 1:], later)
        lengths = real[:, 1:].sum(-1).clamp(min=1)
        masses = torch.where(real[:, None, 1:], on_first[..., 1:], 0).sum(-1) / lengths[:, None]
        self._add("sink_rate", (masses > SINK)[..., None], several)
        masses = on_first[..., :SINK_QUERIES].mean(-1)
        self._add("sink_mass_64", masses[..., None], long)
        self._add("sink_rate_64", (masses > SINK)[..., None], long)

    def _add_values(
        self,
        values: Float[Tensor, "batch kv_heads positions d"],
        real: Bool[Tensor, "batch positions"],
        mask: Bool[np.ndarray, "batch positions"],
    ) -> None:
        norms = values.norm(dim=-1)
        norms = norms.repeat_interleave(self._largest.heads // norms.shape[1], dim=1)
        self._add(_FIRST_VALUE, norms[..., :1], mask[:, :1])
        self._add(_OTHER_VALUES, norms[..., 1:], mask[:, 1:])

    def _add(
        self, name: str, values: Shaped[Tensor, "batch heads some"], where: Bool[np.ndarray, "batch some"]
    ) -> None:
        """Add the values of each head at the places that count."""
        count = int(where.sum())
        if count == 0:
            return
        chosen = values if where.all() else torch.where(torch.tensor(where[:, None], device=values.device), values, 0)
        some = chosen.sum((0, 2), dtype=torch.float64)
        self._sums[name] = self._sums[name] + some if name in self._sums else some
        self._counts[name] += count

    def _mean(self, name: str) -> Float64[np.ndarray, " heads"]:
        if not self._counts[name]:
            return np.full(self._largest.heads, math.nan)
        found: np.ndarray = self._sums[name].cpu().numpy() / self._counts[name]
        return found
