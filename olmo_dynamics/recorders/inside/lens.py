"""The logit lens: the model's final norm and head applied to the stream after every block.

    >>> recorder = LensRecorder(tokens=1024).start(Context(config=config, probe=probe))  # doctest: +SKIP
    >>> recorder.attributes()  # doctest: +SKIP
    {'tokens': 1024}

The head comes last in a pass, so the stream of a sample of tokens is kept until then: one vector for each block and token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import ProbeTokens
from olmo_dynamics.recorders.inside.lens_sample import LENS_TOKENS, KeptVectors, LensSample, check_lens_tokens
from olmo_dynamics.recorders.inside.lens_sums import LensSums


class LensRecorder(Recorder):
    """The group `lens`, of at most `tokens` tokens of the probe.

    Raises:
        OptionError: `tokens` is below 512.
    """

    group = GROUPS["lens"]
    sites = frozenset({Site.RESIDUAL_OUT, Site.FINAL_NORM, Site.LOGITS})
    needs_whole_pass = True
    by_default = False

    def __init__(self, tokens: int = LENS_TOKENS) -> None:
        self.tokens = check_lens_tokens(tokens)
        self._earlier: LensRecorder | None = None
        self._sums: list[tuple[Int64[np.ndarray, " some"], LensSums]] = []

    def attributes(self) -> Mapping[str, str | int | float]:
        """The number of tokens that the lens looks at."""
        return {"tokens": len(LensSample.of_context(self.context, self.tokens))}

    def kept_bytes(self) -> int:
        """The stream of the sample after every block, as float32."""
        config = self.context.config
        sample = LensSample.of_context(self.context, self.tokens)
        return 0 if config is None else 4 * len(sample) * config.layers * config.hidden_size

    def begin(self) -> None:
        """Choose the sample."""
        self._sample = LensSample.of_context(self.context, self.tokens)
        self._kept = KeptVectors(len(self._sample))

    def follow(self, earlier: LensRecorder) -> None:
        """See the recorder that keeps the stream of the blocks before."""
        self._earlier = earlier

    def observe(self, seen: Observation) -> None:
        """Keep the stream after a block, or compare it with the final logits."""
        if seen.site is Site.RESIDUAL_OUT:
            self._kept.keep(seen.layer, self._sample, seen)
            return
        places = self._sample.within(seen)
        if seen.site is Site.FINAL_NORM and len(places):
            self._sums.append((places, self._begin_sums(seen, places)))
        if seen.site is Site.LOGITS and len(places):
            self._sums[-1][1].add(self._sample.pick(seen, places), seen.beside["head"], seen.columns.start)

    def merge(self, other: LensRecorder) -> None:
        """Add the tokens that `other` saw."""
        self._kept.merge(other._kept)
        for places, sums in other._sums:
            sums.release()
            self._sums.append((places, sums))

    def finish_layer(self, layer: int) -> Sequence[Record]:
        """No record yet: what was kept of the layer is laid together."""
        self._kept.settle()
        return ()

    def finish(self) -> Iterator[Record]:
        """The records of every layer and domain."""
        if not self._sums:
            return
        measured = [sums.measured() for _, sums in self._sums]
        places = np.concatenate([places for places, _ in self._sums])
        domains = self._probe.domain[self._sample.rows[places]]
        arrays = {name: torch.cat([each[name] for each in measured], dim=1).cpu().numpy() for name in measured[0]}
        for layer in range(self.context.layers):
            for number, domain in enumerate(self._probe.domains):
                inside = {name: values[layer, domains == number] for name, values in arrays.items()}
                yield from self._of_domain(inside, layer, domain)

    def _of_domain(
        self, values: Mapping[str, Float64[np.ndarray, " tokens"]], layer: int, domain: str
    ) -> Iterator[Record]:
        at: dict[str, str | int | float] = {"layer": layer, "domain": domain}
        count = len(values["cross_entropy"])
        status = Status.MEASURED if all(np.isfinite(each).all() for each in values.values()) else Status.NONFINITE
        if count:
            for name, each in values.items():
                yield self.record(name, each.mean(), **at)
        yield self.record("token_count", np.int64(count), **at)
        yield self.record("status", np.uint8(status if count else Status.NOT_MEASURED), **at)

    def _begin_sums(self, seen: Observation, places: Int64[np.ndarray, " some"]) -> LensSums:
        assert self._earlier is not None
        layers = range(self.context.layers)
        kept = self._earlier._kept
        vectors = seen.beside["norm"](torch.stack([kept.of(layer, places) for layer in layers]))
        rows, positions = self._sample.rows[places], self._sample.positions[places]
        targets = torch.tensor(self._probe.token_ids[rows, positions + 1], device=vectors.device)
        return LensSums(vectors, targets, self._probe.tokenizer_size)

    @property
    def _probe(self) -> ProbeTokens:
        assert self.context.probe is not None
        return self.context.probe
