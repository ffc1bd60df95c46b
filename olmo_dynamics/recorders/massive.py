"""Massive activations: the largest numbers of a layer's output, their places, and their ratio to the median.

    >>> import torch
    >>> from olmo_dynamics.names import Site
    >>> from olmo_dynamics.recorders.base import Observation
    >>> massive = MassiveActivations()
    >>> x, mask = torch.tensor([[[0.0, 1.0], [-900.0, 2.0]]]), np.ones((1, 2), dtype=bool)
    >>> massive.add(Observation(values=x, site=Site.RESIDUAL_OUT, layer=0, mask=mask, rows=slice(0, 1)), probe=None)
    >>> values = massive.finish_layer(0)
    >>> values["value"][0], values["position"][0], values["feature"][0]
    (np.float64(-900.0), np.int64(1), np.int64(0))

The median is taken over all positions and features of one sequence, with position 0, where most of them are.
Sun et al. 2024, arXiv:2402.17762: an activation is massive above 100 and at (about) 1000 times that median.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities import MASSIVE_RANKS
from olmo_dynamics.recorders.base import Observation
from olmo_dynamics.recorders.context import ProbeTokens
from olmo_dynamics.recorders.kernels.bfloat16.code_rank import middle_codes
from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.token_codes import values_of
from olmo_dynamics.recorders.kernels.tokens import (
    LARGEST,
    LOWER_MEDIAN,
    middle_magnitudes,
    strip_signs,
)

MASSIVE_ABOVE = 100.0
MASSIVE_MEDIANS = 1000.0
TOP = 3


@jit
def _largest_places(
    magnitudes: UInt[np.ndarray, " n"],
    largest: UInt[np.ndarray, " positions"],
    top: Int64[np.ndarray, " ranks"],
    places: Int64[np.ndarray, " ranks"],
) -> None:
    """Fill the largest magnitudes, largest first, and their places in the flat array; of equal ones, the earlier."""
    width = len(magnitudes) // len(largest)
    top[:] = -1
    for position in range(len(largest)):
        if np.int64(largest[position]) <= top[-1]:
            continue
        for place in range(position * width, (position + 1) * width):
            magnitude = np.int64(magnitudes[place])
            if magnitude <= top[-1]:
                continue
            rank = len(top) - 1
            while rank > 0 and top[rank - 1] < magnitude:
                top[rank], places[rank] = top[rank - 1], places[rank - 1]
                rank -= 1
            top[rank], places[rank] = magnitude, place


@jit
def _look_at_sequences(
    codes: UInt[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    ends: Int64[np.ndarray, " sequences"],
    of_tokens: UInt[np.ndarray, "tokens 3"],
    found: tuple[Int64[np.ndarray, "sequences ranks"], Int64[np.ndarray, "sequences 2"]],
) -> None:
    """Fill the places of each sequence's largest magnitudes among its rows, and its two middle magnitudes.

    A sequence has the `rows` up to its end from that of the one before.
    """
    places, middles = found
    width = codes.shape[1]
    top = np.empty(places.shape[1], np.int64)
    largest = np.empty(len(rows), codes.dtype)
    buffer = np.empty(len(rows) * width, codes.dtype)
    start = 0
    for sequence in range(len(ends)):
        stop = ends[sequence]
        if stop > start:
            magnitudes = buffer[start * width : stop * width]
            for i in range(start, stop):
                strip_signs(codes[rows[i]], buffer[i * width : (i + 1) * width])
                largest[i] = of_tokens[rows[i], LARGEST]
            _largest_places(magnitudes, largest[start:stop], top, places[sequence])
            guess = np.int64(of_tokens[rows[(start + stop) // 2], LOWER_MEDIAN])
            if codes.itemsize == 2:
                lower, upper, _ = middle_codes(magnitudes, top[0], guess, len(magnitudes) / 400.0)
            else:
                lower, upper = middle_magnitudes(magnitudes, top[0], guess)
            middles[sequence, 0], middles[sequence, 1] = lower, upper
        start = stop


@dataclass(frozen=True)
class _Sequence:
    """One sequence at one layer: its largest activations, largest first, and its median magnitude."""

    values: Float[np.ndarray, " ranks"]
    positions: Int64[np.ndarray, " ranks"]
    features: Int64[np.ndarray, " ranks"]
    median: float
    massive: int


class MassiveActivations:
    """The quantities `outliers/massive_*`; two that saw different sequences merge exactly."""

    def __init__(self) -> None:
        self._layers: dict[int, dict[int, _Sequence]] = {}
        self._token_ids: Int64[np.ndarray, "sequences positions"] | None = None

    def add(self, seen: Observation, probe: ProbeTokens | None) -> None:
        """Add whole sequences of a layer's output.

        Raises:
            OptionError: the sequences are cut, so that their medians are unknown.
        """
        positions = seen.mask.shape[1]
        if probe is not None:
            self._token_ids = probe.token_ids
            if positions != probe.token_ids.shape[1]:
                raise OptionError(
                    f"massive activations need whole sequences of {probe.token_ids.shape[1]} positions (got {positions}); "
                    "do not cut them"
                )
        self._layers.setdefault(seen.layer, {}).update(_measure(seen))

    def merge(self, other: MassiveActivations) -> None:
        """Add the sequences that `other` saw."""
        self._token_ids = other._token_ids if self._token_ids is None else self._token_ids
        for layer, sequences in other._layers.items():
            self._layers.setdefault(layer, {}).update(sequences)

    def finite(self, layer: int) -> bool | None:
        """True if all activations of a layer's output were finite; None if no token was seen."""
        seen = self._layers.get(layer)
        return all(math.isfinite(sequence.values[0]) for sequence in seen.values()) if seen else None

    def finish_layer(self, layer: int) -> dict[str, np.ndarray]:
        """The values of a layer by name, whose state is dropped; empty if no token was seen."""
        sequences = dict(sorted(self._layers.pop(layer, {}).items()))
        if not sequences:
            return {}
        seen = list(sequences.values())
        top = np.full((len(seen), TOP), math.nan)
        for row, sequence in zip(top, seen, strict=True):
            row[: len(sequence.values)] = np.abs(sequence.values[:TOP])
        return self._largest(sequences) | {
            "median": np.asarray(np.mean([sequence.median for sequence in seen])),
            "top3": top.mean(axis=0),
            "count": np.asarray(float(sum(sequence.massive for sequence in seen))),
        }

    def _largest(self, sequences: dict[int, _Sequence]) -> dict[str, np.ndarray]:
        numbers = np.concatenate([np.full(len(each.values), number) for number, each in sequences.items()])
        values, positions, features = (
            np.concatenate([getattr(each, name) for each in sequences.values()])
            for name in ("values", "positions", "features")
        )
        magnitudes = np.nan_to_num(np.abs(values), nan=np.inf)
        first = np.lexsort((features, positions, numbers, -magnitudes))[:MASSIVE_RANKS]
        return {
            "value": _padded(values[first], math.nan),
            "sequence": _padded(numbers[first], -1),
            "position": _padded(positions[first], -1),
            "token_id": _padded(self._ids(numbers[first], positions[first]), -1),
            "feature": _padded(features[first], -1),
        }

    def _ids(self, sequences: Int64[np.ndarray, " n"], positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return np.full(len(sequences), -1) if self._token_ids is None else self._token_ids[sequences, positions]


def _measure(seen: Observation) -> Iterator[tuple[int, _Sequence]]:
    """Each sequence that has real tokens, by its number in the probe."""
    codes, (_, positions) = seen.codes.codes, seen.mask.shape
    rows, lengths = np.flatnonzero(seen.mask), seen.mask.sum(axis=1)
    ends = np.cumsum(lengths)
    places = np.zeros((len(lengths), MASSIVE_RANKS), np.int64)
    middles = np.zeros((len(lengths), 2), np.int64)
    _look_at_sequences(codes, rows, ends, seen.tokens.magnitudes, (places, middles))
    medians = values_of(middles.astype(codes.dtype)).mean(axis=1)
    for number, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
        if length:
            of_sequence = rows[end - length : end]
            at, features = np.divmod(places[number, : length * codes.shape[1]], codes.shape[1])
            there = of_sequence[at]
            values = values_of(codes[there, features])
            largest = abs(values[0])
            median = (
                math.nan if np.isnan(largest) else float(medians[number])
            )  # NaN sorts last, so it is not found there
            massive = _count_massive(codes, of_sequence, largest, median)
            yield seen.rows.start + number, _Sequence(values, there % positions, features, median, massive)


def _count_massive(
    codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"], largest: float, median: float
) -> int:
    if not largest > MASSIVE_ABOVE:
        return 0
    magnitudes = np.abs(values_of(codes[rows]))
    return int(np.count_nonzero((magnitudes > MASSIVE_ABOVE) & (magnitudes >= MASSIVE_MEDIANS * median)))


def _padded(values: np.ndarray, filler: float | int) -> np.ndarray:
    """The values, padded to `MASSIVE_RANKS` of them for models with fewer numbers."""
    padded = np.full(MASSIVE_RANKS, filler, values.dtype)
    padded[: len(values)] = values
    return padded
