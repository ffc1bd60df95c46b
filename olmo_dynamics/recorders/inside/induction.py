"""Induction heads: attention and loss on windows of random tokens that are read twice.

    >>> probe = repeated_windows(length=3, vocabulary=9, special_ids=(0,), seed=0)
    >>> probe.token_ids.shape, bool((probe.token_ids[:, :3] == probe.token_ids[:, 3:]).all()), int(probe.token_ids.min())
    ((8, 6), True, 1)

No statistics of language help to predict such tokens: the second half can only be predicted from the first. The windows are the
same for every revision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import PlainProbe, ProbeTokens
from olmo_dynamics.recorders.inside.chosen_losses import ChosenLosses
from olmo_dynamics.recorders.inside.tiles import attention_tiles

if TYPE_CHECKING:
    from olmo_dynamics.model import ModelConfig

WINDOWS, LONGEST, SEED = 8, 128, 0
"""Windows of the probe, the most tokens that are repeated, and the seed by which they are drawn."""


def repeated_windows(length: int, vocabulary: int, special_ids: Collection[int], seed: int) -> PlainProbe:
    """Windows [R; R] with R of `length` ids, drawn uniformly from a vocabulary without special ids."""
    allowed = np.setdiff1d(np.arange(vocabulary), np.array(list(special_ids), dtype=np.int64))
    drawn = np.random.default_rng(seed).integers(0, len(allowed), (WINDOWS, length))
    return PlainProbe(np.tile(allowed[drawn], 2), tokenizer_size=vocabulary)


class InductionRecorder(Recorder):
    """Prefix matching and losses of the group `induction`, on a probe of its own."""

    group = GROUPS["induction"]
    sites = frozenset({Site.QUERY_ROTATED, Site.LOGITS})
    needs_whole_pass = True
    by_default = False

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._windows: dict[int, int] = {}
        self._losses: ChosenLosses | None = None

    def attributes(self) -> Mapping[str, str | int | float]:
        """The probe's windows: their seed, number, and repeated tokens."""
        return {"seed": SEED, "windows": WINDOWS, "repeated_tokens": self._length}

    def probe(self) -> ProbeTokens:
        """Windows of random ids of the tokenizer, as long as the model has positions for."""
        main = self.context.probe
        assert main is not None
        vocabulary = min(main.tokenizer_size, self._config.vocab_size)
        return repeated_windows(self._length, vocabulary, getattr(main, "special_ids", ()), SEED)

    def begin(self) -> None:
        """Choose every token that is predicted."""
        if self.context.probe is not None:
            self._losses = ChosenLosses.of_predicted(self.context.probe)

    def observe(self, seen: Observation) -> None:
        """Add the attention of the second half of some windows, or logits."""
        if seen.site is Site.LOGITS:
            assert self._losses is not None
            self._losses.add(seen)
            return
        self._windows[seen.layer] = self._windows.get(seen.layer, 0) + len(seen.values)
        for tile in attention_tiles(seen, head_dim=self._config.head_dim, first_query=self._length):
            matched = tile.on_earlier(self._length - 1).sum((0, 2), dtype=torch.float64)
            self._sums[seen.layer] = self._sums[seen.layer] + matched if seen.layer in self._sums else matched

    def merge(self, other: InductionRecorder) -> None:
        """Add the windows that `other` saw."""
        for layer, matched in other._sums.items():
            self._sums[layer] = self._sums[layer] + matched if layer in self._sums else matched
            self._windows[layer] = self._windows.get(layer, 0) + other._windows[layer]
        if self._losses is not None and other._losses is not None:
            self._losses.merge(other._losses)

    def finish_layer(self, layer: int) -> Iterator[Record]:
        """The scores of a layer's heads."""
        if layer in self._sums:
            scores = self._sums.pop(layer).cpu().numpy() / (self._windows.pop(layer) * self._length)
            status = np.where(np.isfinite(scores), Status.MEASURED, Status.NONFINITE).astype(np.uint8)
            yield self.record("prefix_matching", scores, layer=layer)
            yield self.record("status", status, layer=layer)

    def finish(self) -> Iterator[Record]:
        """The losses of both halves."""
        if self._losses is None:
            return
        losses = self._losses.of_tokens()
        if not np.isnan(losses[:, 1:]).all():
            if self._length > 1:
                yield self.record("first_half_loss", losses[:, 1 : self._length].mean())
            yield self.record("second_half_loss", losses[:, self._length :].mean())

    @property
    def _config(self) -> ModelConfig:
        assert self.context.config is not None
        return self.context.config

    @property
    def _length(self) -> int:
        return max(1, min(LONGEST, self._config.max_positions // 2))
