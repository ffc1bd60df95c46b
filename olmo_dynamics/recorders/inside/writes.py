"""Writes to the stream: what attention and the MLP add to it, how much each head adds, and the share of the logits it gives.

    >>> recorder = WritesRecorder().start(Context(config=config, probe=probe))  # doctest: +SKIP
    >>> recorder.labels()  # doctest: +SKIP
    {'part': ('attention', 'mlp', 'embedding')}

A write is the vector that a sublayer adds to the stream: after its output norm where there is one. It is compared with the
stream that the sublayer reads, which is the same for both where attention and the MLP run side by side. The embedding is a
part of the logits as well, and has layer -1. Shares of the logits are of the tokens that the lens looks at, whose writes are
kept until the head comes. The bias of a final norm belongs to no part: where there is one, the shares do not sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.inside.attribution import LogitAttribution
from olmo_dynamics.recorders.inside.final_norm import FixedNorm
from olmo_dynamics.recorders.inside.lens_sample import LENS_TOKENS, KeptVectors, LensSample, check_lens_tokens
from olmo_dynamics.recorders.inside.tiles import wide
from olmo_dynamics.recorders.inside.write_sums import WriteSums

ATTENTION, MLP, EMBEDDING = "attention", "mlp", "embedding"
PARTS = (ATTENTION, MLP, EMBEDDING)
"""The labels of the axis `part`."""

_WRITTEN = {
    Site.ATTENTION_OUTPUT: ATTENTION,
    Site.ATTENTION_OUTPUT_NORMED: ATTENTION,
    Site.MLP_OUTPUT: MLP,
    Site.MLP_OUTPUT_NORMED: MLP,
}

Part = tuple[int, str]


class WritesRecorder(Recorder):
    """The group `writes`; shares of the logits are of at most `tokens` tokens of the probe.

    Raises:
        OptionError: `tokens` is below 512.
    """

    group = GROUPS["writes"]
    sites = frozenset({Site.EMBEDDING, Site.RESIDUAL_IN, Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT})
    by_default = False

    def __init__(self, tokens: int = LENS_TOKENS) -> None:
        self.tokens = check_lens_tokens(tokens)
        self._before: Tensor | None = None  # the stream that the next write is added to
        self._sums: dict[Part, WriteSums] = {}
        self._logits: list[tuple[Int64[np.ndarray, " some"], LogitAttribution]] = []
        self._shares: list[dict[Part, Tensor]] = []

    def sites_in(self, available: Sequence[Site]) -> frozenset[Site]:
        """The stream, what sublayers add to it, and the head if there is one."""
        wanted = super().sites_in(available)
        optional = {Site.ATTENTION_OUTPUT_NORMED, Site.RESIDUAL_MIDDLE, Site.MLP_OUTPUT_NORMED} & set(available)
        head = {Site.FINAL_NORM, Site.LOGITS} if Site.LOGITS in available else set()
        return wanted | optional | head if wanted else wanted

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The parts of the stream."""
        return {"part": PARTS}

    def attributes(self) -> Mapping[str, str | int | float]:
        """The number of tokens whose logits are looked at."""
        return {"tokens": len(LensSample.of_context(self.context, self.tokens))}

    def kept_bytes(self) -> int:
        """The embedding and the writes of the sample, as float32."""
        config = self.context.config
        sample = LensSample.of_context(self.context, self.tokens)
        return 0 if config is None else 4 * len(sample) * (2 * config.layers + 1) * config.hidden_size

    def begin(self) -> None:
        """Choose the sample."""
        available = set(self.context.sites)
        self._normed = Site.ATTENTION_OUTPUT_NORMED in available
        self._keeps = self.context.whole and Site.LOGITS in available
        self._sample = LensSample.of_context(self.context, self.tokens)
        self._kept = KeptVectors(len(self._sample))

    def observe(self, seen: Observation) -> None:
        """Add a write, the stream before it, or the logits."""
        site = seen.site
        if site is Site.EMBEDDING and self._keeps:
            self._kept.keep((NO_LAYER, EMBEDDING), self._sample, seen)
        elif site in (Site.RESIDUAL_IN, Site.RESIDUAL_MIDDLE):
            self._before = wide(seen.real).clone()
        elif site in _WRITTEN:
            self._observe_write(seen, (seen.layer, _WRITTEN[site]))
        elif site in (Site.FINAL_NORM, Site.LOGITS):
            self._observe_head(seen)

    def merge(self, other: WritesRecorder) -> None:
        """Add the tokens that `other` saw."""
        self._kept.merge(other._kept)
        for part, sums in other._sums.items():
            self._sums.setdefault(part, WriteSums()).merge(sums)
        for places, logits in other._logits:
            self._shares.append({part: logits.share(self._kept.of(part, places)) for part in self._parts})

    def finish_layer(self, layer: int) -> Iterator[Record]:
        """The records of a layer's writes, but for their shares of the logits."""
        self._kept.settle()
        for part in (ATTENTION, MLP):
            sums = self._sums.pop((layer, part), None)
            if sums is None:
                continue
            measured = sums.measured()
            for name, value in measured.items():
                yield self.record(name, value, layer=layer, part=part)
            yield self.record("status", np.uint8(sums.status), layer=layer, part=part)
            if part == ATTENTION:
                yield self.record("head_write_l2", sums.head_norms(), layer=layer)

    def finish(self) -> Iterator[Record]:
        """The shares of the logits, of every part."""
        if not self._shares:
            return
        for layer, part in self._parts:
            share = float(torch.cat([each[layer, part] for each in self._shares]).mean())
            yield self.record("logit_share", share, layer=layer, part=part)
            if part == EMBEDDING:
                status = Status.MEASURED if np.isfinite(share) else Status.NONFINITE
                yield self.record("status", np.uint8(status), layer=layer, part=part)

    @property
    def _parts(self) -> tuple[Part, ...]:
        blocks = range(self.context.layers)
        return ((NO_LAYER, EMBEDDING), *((layer, part) for layer in blocks for part in (ATTENTION, MLP)))

    def _observe_write(self, seen: Observation, part: Part) -> None:
        sums = self._sums.setdefault(part, WriteSums())
        if seen.site is Site.ATTENTION_OUTPUT:
            assert self.context.config is not None
            sums.add_heads(seen, head_dim=self.context.config.head_dim)
        if self._normed and seen.site in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT):
            return  # the output norm's result is added, not this
        assert self._before is not None
        sums.add(wide(seen.real), self._before)
        if self._keeps:
            self._kept.keep(part, self._sample, seen)

    def _observe_head(self, seen: Observation) -> None:
        places = self._sample.within(seen)
        if not len(places) or not self._keeps:
            return
        if seen.site is Site.FINAL_NORM:
            assert self.context.probe is not None
            stream = wide(self._sample.pick(seen, places, seen.beside["stream"]))
            norm = FixedNorm.of(seen.beside["norm"], stream)
            self._logits.append((places, LogitAttribution(norm, self.context.probe.tokenizer_size)))
        else:
            self._logits[-1][1].add(self._sample.pick(seen, places), seen.beside["head"], seen.columns.start)
