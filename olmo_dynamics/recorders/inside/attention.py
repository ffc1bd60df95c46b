"""Attention patterns: for every head, the size of its logits, and where its weights lie.

    >>> recorder = AttentionRecorder().start(Context(config=config, probe=probe))  # doctest: +SKIP
    >>> recorder.observe(seen)  # doctest: +SKIP
    >>> records = recorder.finish_layer(0)  # doctest: +SKIP

Logits are `q·k / sqrt(head_dim)` after QK-norm, clipping and RoPE, over the keys that a query sees; padding is left out.
Means are over all real queries of the probe together. `olmo_dynamics.recorders.inside.tiles` computes them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.inside.head_sums import LEVEL, OVER_64, SINK_QUERIES, HeadSums
from olmo_dynamics.recorders.inside.largest import needed


class AttentionRecorder(Recorder):
    """The group `attention`; recorders that saw different sequences merge, counts and selections exactly."""

    group = GROUPS["attention"]
    sites = frozenset({Site.QUERY_ROTATED})
    by_default = False

    def __init__(self) -> None:
        self._layers: dict[int, HeadSums] = {}

    def kept_bytes(self) -> int:
        """The largest logits of one layer, which each part of the sequences selects by itself."""
        values_and_heads = 4 + 8
        return 8 * 2 * values_and_heads * self._config.heads * needed(self._pairs(None), LEVEL)

    def observe(self, seen: Observation) -> None:
        """Add the queries, keys and values of some sequences."""
        sums = self._layers.get(seen.layer)
        if sums is None:
            count = needed(self._pairs(seen.window), LEVEL)
            sums = self._layers[seen.layer] = HeadSums(self._config.heads, count)
        sums.add(seen, head_dim=self._config.head_dim)

    def merge(self, other: AttentionRecorder) -> None:
        """Add the sequences that `other` saw."""
        for layer, sums in other._layers.items():
            if layer in self._layers:
                self._layers[layer].merge(sums)
            else:
                self._layers[layer] = sums

    def finish_layer(self, layer: int) -> Iterator[Record]:
        """The records of one layer, whose state is dropped."""
        sums = self._layers.pop(layer, None)
        if sums is None:
            return
        measured = sums.measured(self._pairs(self._config.window(layer)))
        for name, values in measured.items():
            yield self.record(name, values, layer=layer)
        judged = [values for name, values in measured.items() if name not in OVER_64 or self._has_64_tokens]
        undefined = np.isnan(np.stack(judged)).any(axis=0)
        status = np.where(undefined, Status.DEGENERATE, Status.MEASURED)
        yield self.record("status", np.where(sums.finite, status, Status.NONFINITE).astype(np.uint8), layer=layer)

    @property
    def _config(self) -> ModelConfig:
        assert self.context.config is not None
        return self.context.config

    @property
    def _has_64_tokens(self) -> bool:
        """True if some window of the probe does; otherwise no head has a mean over 64 queries, and none is degenerate for it."""
        assert self.context.probe is not None
        return bool(self.context.probe.mask.sum(axis=1).max(initial=0) >= SINK_QUERIES)

    def _pairs(self, window: int | None) -> int:
        """The pairs of a real query and a key that it sees, over the probe."""
        assert self.context.probe is not None
        lengths = self.context.probe.mask.sum(axis=1)
        positions = np.arange(self.context.probe.mask.shape[1])
        visible = np.minimum(positions + 1, window or len(positions))
        return int(np.concatenate(([0], np.cumsum(visible)))[lengths].sum())
