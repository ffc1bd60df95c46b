"""Outlier features, by magnitude and relative to each token's own RMS, and massive activations.

    >>> import torch
    >>> recorder = OutlierRecorder(token_ids=np.array([[7, 8]]))
    >>> x = torch.tensor([[[0.0, 7.0], [1.0, 6.0]]])
    >>> recorder.observe(Site.RESIDUAL_IN, 0, x, np.ones((1, 2), dtype=bool), slice(0, 1))
    >>> values = {record.quantity.name: record.values for record in recorder.records()}
    >>> values["feature_abs_max"], float(values["llmint8_count"])
    (array([1., 7.], dtype=float32), 1.0)

The inputs of attention and of the MLP are read, as in LLM.int8: the stream entering a block and the stream between its
two halves, or what the input norms make of them.
Counts are kept by feature and threshold, so that any rule can be applied to a store later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt
from torch import Tensor

from olmo_dynamics.names import Record, Site, Status
from olmo_dynamics.quantities import RMS_THRESHOLDS, THRESHOLDS, WITHOUT_FIRST, find
from olmo_dynamics.recorders.compiled import compiled
from olmo_dynamics.recorders.llmint8 import LLMINT8_THRESHOLD, llmint8_rule, outlier_features
from olmo_dynamics.recorders.massive import MassiveRecorder
from olmo_dynamics.recorders.observed import Observed, observed_tokens, values_of
from olmo_dynamics.recorders.token_kernels import (
    LARGEST,
    Tokens,
    raise_maxima,
    read_codes,
    scratch_row,
    strip_signs,
    tokens_of,
)

INPUTS = {
    Site.RESIDUAL_IN: "attention_input",
    Site.RESIDUAL_MIDDLE: "mlp_input",
    Site.ATTENTION_INPUT: "attention_input",
    Site.MLP_INPUT: "mlp_input",
}
"""Labels of the `input` axis, by the site they are read at: the latter two where a model norms its sublayers' inputs."""

OUTPUTS = (Site.EMBEDDING, Site.RESIDUAL_OUT)
"""Where massive activations are looked for."""

_LIMITS = np.array(THRESHOLDS)
_RMS_LIMITS = np.array(RMS_THRESHOLDS)


@compiled
def _count_at_least(magnitudes: Float[np.ndarray, " width"], limit: float, counts: Int64[np.ndarray, " width"]) -> None:
    for i in range(len(magnitudes)):
        counts[i] += np.int64(np.float64(magnitudes[i]) >= limit)


@compiled
def _raise_maxima(
    codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"], maxima: UInt[np.ndarray, " width"]
) -> None:
    magnitudes = np.empty(codes.shape[1], codes.dtype)
    for row in rows:
        strip_signs(codes[row], magnitudes)
        raise_maxima(magnitudes, maxima)


@compiled
def _count_above(
    codes: UInt[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    scratch: tuple[UInt[np.ndarray, " width"], Float[np.ndarray, " width"]],
    of_rows: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    counts: tuple[Int64[np.ndarray, "limits width"], Int64[np.ndarray, "multiples width"]],
) -> None:
    """Counts, by feature, the tokens in these rows at or above each limit, and each multiple of the token's RMS.

    `of_rows` are the largest magnitude and the RMS of each of these tokens.
    """
    bits, values = scratch
    largest, rms = of_rows
    above, above_rms = counts
    magnitudes = np.empty(codes.shape[1], codes.dtype)
    for place in range(len(rows)):
        unit = rms[place] if rms[place] > 0.0 else np.inf  # a token of zeros has no outliers
        if not (largest[place] >= _LIMITS[0] or largest[place] >= _RMS_LIMITS[0] * unit):
            continue
        strip_signs(codes[rows[place]], magnitudes)
        read_codes(magnitudes, bits)
        for i in range(len(_LIMITS)):
            if largest[place] >= _LIMITS[i]:
                _count_at_least(values, _LIMITS[i], above[i])
        for i in range(len(_RMS_LIMITS)):
            if largest[place] >= _RMS_LIMITS[i] * unit:
                _count_at_least(values, _RMS_LIMITS[i] * unit, above_rms[i])


class _Above:
    """Counts over one set of tokens at one input of one layer."""

    def __init__(self, width: int) -> None:
        self.tokens = 0
        self.above = np.zeros((len(THRESHOLDS), width), np.int64)
        self.above_rms = np.zeros((len(RMS_THRESHOLDS), width), np.int64)
        self.abs_max = np.zeros(width)

    def add(self, observed: Observed, rows: Int64[np.ndarray, " n"], tokens: Tokens) -> None:
        codes = observed.codes
        maxima = np.zeros(codes.shape[1], codes.dtype)
        _raise_maxima(codes, rows, maxima)
        self.abs_max = np.maximum(self.abs_max, values_of(maxima))
        # A NaN sorts last: whatever stands beside it must still be counted.
        largest = np.nan_to_num(values_of(tokens.magnitudes[rows, LARGEST]), nan=math.inf)
        of_rows = largest, np.sqrt(tokens.squares[rows] / observed.width)
        _count_above(codes, rows, scratch_row(codes), of_rows, (self.above, self.above_rms))
        self.tokens += len(rows)

    def merge(self, other: _Above) -> None:
        self.tokens += other.tokens
        self.above += other.above
        self.above_rms += other.above_rms
        self.abs_max = np.maximum(self.abs_max, other.abs_max)

    def measured(self) -> _Fractions:
        if self.tokens == 0:
            return _Fractions(*(np.full(array.shape, math.nan) for array in (self.above, self.above_rms, self.abs_max)))
        return _Fractions(self.above / self.tokens, self.above_rms / self.tokens, self.abs_max)


@dataclass(frozen=True)
class _Fractions:
    above: Float[np.ndarray, "thresholds width"]
    above_rms: Float[np.ndarray, "rms_thresholds width"]
    abs_max: Float[np.ndarray, " width"]

    def values(self) -> dict[str, np.ndarray]:
        return {
            "feature_fraction_above": self.above.astype(np.float32),
            "feature_fraction_above_rms": self.above_rms.astype(np.float32),
            "feature_abs_max": self.abs_max.astype(np.float32),
        }

    def at_six(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What LLM.int8's rule reads: maxima, share of tokens at 6 and more, and at 6 RMS and more."""
        return (
            self.abs_max,
            self.above[THRESHOLDS.index(LLMINT8_THRESHOLD)],
            self.above_rms[RMS_THRESHOLDS.index(LLMINT8_THRESHOLD)],
        )


class OutlierRecorder:
    """The group `outliers`; recorders that saw different tokens (whole sequences of them) merge exactly.

    `harvest` drops a layer's counts and keeps only what the rule over all layers needs.
    """

    def __init__(self, token_ids: Int64[np.ndarray, "sequences positions"]) -> None:
        self._places: dict[tuple[Site, int], tuple[_Above, _Above]] = {}  # first positions, the rest
        self._massive = MassiveRecorder(token_ids)
        self._at_six: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"": [], WITHOUT_FIRST: []}

    def observe(
        self,
        site: Site,
        layer: int,
        x: Float[Tensor, "batch positions width"],
        mask: Bool[np.ndarray, "batch positions"],
        sequences: slice,
    ) -> None:
        """Adds whole sequences where `mask` is true; `sequences` are their places in the probe."""
        observed = observed_tokens(x, mask)
        self.add(site, layer, (observed, tokens_of(observed)), mask, sequences)

    def add(
        self,
        site: Site,
        layer: int,
        found: tuple[Observed, Tokens],
        mask: Bool[np.ndarray, "batch positions"],
        sequences: slice,
    ) -> None:
        """The same, where it is known what its tokens are like."""
        observed, tokens = found
        if site in INPUTS:
            first, rest = self._place(site, layer, observed.width)
            first.add(observed, observed.first, tokens)
            rest.add(observed, observed.rest, tokens)
        if site in OUTPUTS:
            self._massive.add(layer, observed.codes, tokens, mask, sequences)

    def merge(self, other: OutlierRecorder) -> None:
        """Adds what `other` saw and has not harvested."""
        for (site, layer), theirs in other._places.items():
            for mine, their in zip(self._place(site, layer, len(theirs[0].abs_max)), theirs, strict=True):
                mine.merge(their)
        self._massive.merge(other._massive)

    def harvest(self, layer: int) -> list[Record]:
        """What was measured at one layer; its counts are dropped."""
        records, finite = [], [self._massive.finite(layer)]
        for site in [site for site, at in self._places if at == layer]:
            first, rest = self._places.pop((site, layer))
            first.merge(rest)
            at: dict[str, str | int | float] = {"input": INPUTS[site], "layer": layer}
            for suffix, fractions in (("", first.measured()), (WITHOUT_FIRST, rest.measured())):
                if not np.isnan(fractions.above).any():  # else there were no tokens
                    self._at_six[suffix].append(fractions.at_six())
                records += [_record(name + suffix, value, at) for name, value in fractions.values().items()]
            finite.append(bool(np.isfinite(first.abs_max).all()) if first.tokens else None)
        records += self._massive.take(layer).records()
        return [*records, _record("status", np.uint8(_status(finite)), {"layer": layer})] if records else []

    def rule_records(self) -> list[Record]:
        """LLM.int8's rule over all inputs of all layers harvested so far."""
        return [
            _record(f"llmint8_{name}{suffix}", value, {})
            for suffix, places in self._at_six.items() if places
            for name, value in _apply_rule(*(np.array(part) for part in zip(*places, strict=True))).items()
        ]  # fmt: skip

    def records(self) -> list[Record]:
        """What was measured at every layer not yet harvested, and the rule over all of them."""
        layers = sorted({layer for _, layer in self._places} | self._massive.layers)
        return [record for layer in layers for record in self.harvest(layer)] + self.rule_records()

    def _place(self, site: Site, layer: int, width: int) -> tuple[_Above, _Above]:
        if (site, layer) not in self._places:
            self._places[site, layer] = _Above(width), _Above(width)
        return self._places[site, layer]


def _apply_rule(
    abs_max: Float[np.ndarray, "places width"],
    fraction: Float[np.ndarray, "places width"],
    rms_fraction: Float[np.ndarray, "places width"],
) -> dict[str, float]:
    found = llmint8_rule(abs_max, fraction)
    return {
        "count": float(found.count),
        "layer_share": found.layer_share,
        "token_share": found.token_share,
        "magnitude": found.magnitude,
        "rms_count": float(len(outlier_features(rms_fraction > 0, rms_fraction))),
    }


def _status(finite: list[bool | None]) -> Status:
    known = [each for each in finite if each is not None]
    if not known:
        return Status.NOT_MEASURED
    return Status.MEASURED if all(known) else Status.NONFINITE


def _record(name: str, value: object, at: dict[str, str | int | float]) -> Record:
    return Record(find(f"outliers/{name}"), np.asarray(value), dict(at))
