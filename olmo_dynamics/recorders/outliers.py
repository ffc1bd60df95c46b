"""Outlier features, by magnitude and relative to each token's own RMS, and massive activations.

    >>> import torch
    >>> from olmo_dynamics.recorders.base import Observation
    >>> recorder = OutlierRecorder()
    >>> x, mask = torch.tensor([[[0.0, 7.0], [1.0, 6.0]]]), np.ones((1, 2), dtype=bool)
    >>> recorder.observe(Observation(values=x, site=Site.RESIDUAL_MIDDLE, layer=0, mask=mask, rows=slice(0, 1)))
    >>> values = {record.quantity.name: record.values for record in [*recorder.finish_layer(0), *recorder.finish()]}
    >>> values["feature_abs_max"], float(values["llmint8_count"])
    (array([1., 7.], dtype=float32), 1.0)

The inputs of attention and of the MLP are read, as in LLM.int8: the stream entering a block and the stream between its
two halves, or the outputs of the input norms if the model has them.
Counts are kept by feature and threshold, so that any rule can be applied to a store later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS, MASSIVE_RANKS, RMS_THRESHOLDS, THRESHOLDS, WITHOUT_FIRST, find
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.jit import float32_of, jit
from olmo_dynamics.recorders.kernels.token_codes import TokenCodes, values_of
from olmo_dynamics.recorders.kernels.tokens import (
    LARGEST,
    TokenStats,
    raise_maxima,
    strip_signs,
)
from olmo_dynamics.recorders.llmint8 import LLMINT8_THRESHOLD, llmint8_rule, outlier_features
from olmo_dynamics.recorders.massive import TOP, MassiveActivations

_NORMED = frozenset({Site.ATTENTION_INPUT, Site.MLP_INPUT})
"""Inputs of a block's two halves in a model with norms on its sublayers' inputs."""

_OUTPUTS = frozenset({Site.EMBEDDING, Site.RESIDUAL_OUT})
"""Sites of massive activations; the first half of the next block reads them where there is no input norm."""

_ATTENTION, _MLP = "attention_input", "mlp_input"
"""Labels of the `input` axis."""

_LIMITS = np.array(THRESHOLDS)
_RMS_LIMITS = np.array(RMS_THRESHOLDS)
_MOST = (1 << 16) - 1  # tokens that are counted in 16 bits


@jit
def _least_code(limit: float, codes: UInt[np.ndarray, "tokens width"]) -> np.int64:
    """The code, in the dtype of these, of the smallest magnitude at or above a limit."""
    wide, narrow = np.full(1, limit), np.full(1, np.float32(limit))
    if codes.itemsize == 8:
        return np.int64(wide.view(np.uint64)[0])
    code = narrow.view(np.uint32)[0]
    if codes.itemsize == 4:
        return np.int64(code) + np.int64(np.float64(narrow[0]) < limit)
    upper = code >> np.uint32(16)
    return np.int64(upper) + np.int64(np.float64(float32_of(np.uint32(upper << np.uint32(16)))) < limit)


@jit
def _count_from(
    magnitudes: UInt[np.ndarray, " width"], least: np.int64, infinity: np.int64, counts: np.ndarray
) -> None:
    """Count, by feature, the magnitudes from this one to infinity: NaN lies beyond."""
    start, span = magnitudes.dtype.type(least), magnitudes.dtype.type(infinity - least)
    for i in range(len(magnitudes)):
        distance = magnitudes.dtype.type(magnitudes[i] - start)  # of smaller ones it wraps round to a large number
        counts[i] += counts.dtype.type(distance <= span)


@jit
def _count_above(
    codes: UInt[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    tokens: TokenStats,
    narrow: UInt[np.ndarray, "limits width"],
    counts: Int64[np.ndarray, "limits width"],
    maxima: UInt[np.ndarray, " width"],
) -> None:
    """Count, by feature, the tokens in these rows at or above each limit, then each multiple of the token's RMS.

    Counts are taken in `narrow` zeros first, of which more fit an instruction. The maxima of features are raised to those of the
    tokens.
    """
    width, infinity = codes.shape[1], _least_code(np.inf, codes)
    limits = np.array([_least_code(limit, codes) for limit in _LIMITS])
    magnitudes = np.empty(width, codes.dtype)
    for place in range(len(rows)):
        row = rows[place]
        strip_signs(codes[row], magnitudes)
        raise_maxima(magnitudes, maxima)
        # A NaN sorts last: the numbers beside it must still be counted.
        largest = min(np.int64(tokens.magnitudes[row, LARGEST]), infinity)
        for i in range(len(limits)):
            if largest >= limits[i]:
                _count_from(magnitudes, limits[i], infinity, narrow[i])
        rms = math.sqrt(tokens.squares[row] / width)
        unit = rms if rms > 0.0 else np.inf  # a token of zeros has no outliers
        for i in range(len(_RMS_LIMITS)):
            least = _least_code(_RMS_LIMITS[i] * unit, codes)
            if largest < least:
                break
            _count_from(magnitudes, least, infinity, narrow[len(limits) + i])
        if place + 1 == len(rows) or (place + 1) % _MOST == 0:
            counts += narrow
            narrow[:] = 0


class _Above:
    """Counts over one set of tokens at one input of one layer."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.tokens = 0
        self._counts = np.zeros((len(THRESHOLDS) + len(RMS_THRESHOLDS), width), np.int64)
        self._maxima: UInt[np.ndarray, " width"] | None = None  # codes of magnitudes

    @property
    def abs_max(self) -> Float[np.ndarray, " width"]:
        """The largest magnitude of each feature."""
        return np.zeros(self.width) if self._maxima is None else values_of(self._maxima)

    def add(self, observed: TokenCodes, rows: Int64[np.ndarray, " n"], tokens: TokenStats) -> None:
        if self._maxima is None:
            self._maxima = np.zeros(self.width, observed.codes.dtype)
        narrow = np.zeros(self._counts.shape, np.uint16 if observed.codes.itemsize == 2 else np.uint32)
        _count_above(observed.codes, rows, tokens, narrow, self._counts, self._maxima)
        self.tokens += len(rows)

    def merge(self, other: _Above) -> None:
        self.tokens += other.tokens
        self._counts += other._counts
        if other._maxima is not None:
            self._maxima = other._maxima.copy() if self._maxima is None else np.maximum(self._maxima, other._maxima)

    def measured(self) -> _Fractions:
        shares = self._counts / self.tokens if self.tokens else np.full(self._counts.shape, math.nan)
        maxima = self.abs_max if self.tokens else np.full(self.width, math.nan)
        return _Fractions(shares[: len(THRESHOLDS)], shares[len(THRESHOLDS) :], maxima)


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
        """The numbers that LLM.int8's rule reads: maxima, share of tokens at 6 and more, and at 6 RMS and more."""
        return (
            self.abs_max,
            self.above[THRESHOLDS.index(LLMINT8_THRESHOLD)],
            self.above_rms[RMS_THRESHOLDS.index(LLMINT8_THRESHOLD)],
        )


class OutlierRecorder(Recorder):
    """The group `outliers`; recorders that saw different tokens (whole sequences of them) merge exactly.

    A finished layer drops its counts and keeps only the numbers that the rule over all layers needs.
    """

    group = GROUPS["outliers"]
    sites = _NORMED | _OUTPUTS | {Site.RESIDUAL_MIDDLE}

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], tuple[_Above, _Above]] = {}  # by input and layer: first positions, the rest
        self._massive = MassiveActivations()
        self._at_six: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"": [], WITHOUT_FIRST: []}
        self._reads_stream = True

    def sites_in(self, available: Sequence[Site]) -> frozenset[Site]:
        """The inputs after their norms if the model has such norms, else the stream; and the stream that leaves each block."""
        inputs = _NORMED & set(available) or {Site.RESIDUAL_MIDDLE}
        return frozenset(_OUTPUTS | inputs) & set(available)

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The two inputs of a block, the thresholds, and the ranks of massive activations."""
        return {
            "input": (_ATTENTION, _MLP),
            "threshold": THRESHOLDS,
            "rms_threshold": RMS_THRESHOLDS,
            "rank": range(1, MASSIVE_RANKS + 1),
            "top": range(1, TOP + 1),
        }

    def begin(self) -> None:
        """Read the stream that enters a block if the model has no norms on its inputs."""
        self._reads_stream = not _NORMED & set(self.context.sites)

    def observe(self, seen: Observation) -> None:
        """Add whole sequences of one site.

        Raises:
            OptionError: the sequences are cut, so that their medians are unknown.
        """
        for place in self._inputs(seen):
            first, rest = self._place(*place, seen.codes.width)
            first.add(seen.codes, seen.codes.first, seen.tokens)
            rest.add(seen.codes, seen.codes.rest, seen.tokens)
        if seen.site in _OUTPUTS:
            self._massive.add(seen, self.context.probe)

    def _inputs(self, seen: Observation) -> Iterator[tuple[str, int]]:
        """The inputs that these activations are, each with its block."""
        if seen.site in (Site.RESIDUAL_MIDDLE, Site.MLP_INPUT):
            yield _MLP, seen.layer
        if seen.site is Site.ATTENTION_INPUT:
            yield _ATTENTION, seen.layer
        if seen.site in _OUTPUTS and self._reads_stream and seen.layer + 1 < self.context.layers:
            yield _ATTENTION, seen.layer + 1

    def merge(self, other: OutlierRecorder) -> None:
        """Add the sequences that `other` saw and has not finished."""
        for (label, layer), theirs in other._places.items():
            for mine, their in zip(self._place(label, layer, theirs[0].width), theirs, strict=True):
                mine.merge(their)
        self._massive.merge(other._massive)

    def finish_layer(self, layer: int) -> list[Record]:
        """The records of one layer; its counts are dropped."""
        records, finite = [], [self._massive.finite(layer)]
        for label in [label for label, at in self._places if at == layer]:
            first, rest = self._places.pop((label, layer))
            first.merge(rest)
            at: dict[str, str | int | float] = {"input": label, "layer": layer}
            for suffix, fractions in (("", first.measured()), (WITHOUT_FIRST, rest.measured())):
                if not np.isnan(fractions.above).any():  # unless there were no tokens
                    self._at_six[suffix].append(fractions.at_six())
                records += [_record(name + suffix, value, at) for name, value in fractions.values().items()]
            finite.append(bool(np.isfinite(first.abs_max).all()) if first.tokens else None)
        massive = self._massive.finish_layer(layer)
        records += [_record(f"massive_{name}", value, {"layer": layer}) for name, value in massive.items()]
        return [*records, _record("status", np.uint8(_status(finite)), {"layer": layer})] if records else []

    def finish(self) -> list[Record]:
        """LLM.int8's rule over all inputs of all layers; a pass that stops early has no such rule."""
        if not self.context.whole:
            return []
        return [
            _record(f"llmint8_{name}{suffix}", value, {})
            for suffix, places in self._at_six.items() if places
            for name, value in _apply_rule(*(np.array(part) for part in zip(*places, strict=True))).items()
        ]  # fmt: skip

    def _place(self, label: str, layer: int, width: int) -> tuple[_Above, _Above]:
        if (label, layer) not in self._places:
            self._places[label, layer] = _Above(width), _Above(width)
        return self._places[label, layer]


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
