"""Massive activations: the largest numbers of a layer's output, where they stand, and how they compare to the median.

    >>> import torch
    >>> recorder = MassiveRecorder(token_ids=np.array([[7, 8]]))
    >>> recorder.observe(0, torch.tensor([[[0.0, 1.0], [-900.0, 2.0]]]), np.ones((1, 2), dtype=bool), slice(0, 1))
    >>> values = {record.quantity.name: record.values for record in recorder.records()}
    >>> values["massive_value"][0], values["massive_token_id"][0], values["massive_feature"][0]
    (np.float64(-900.0), np.int64(8), np.int64(0))

The median is taken over all positions and features of one sequence, position 0 included: that is where they are.
Sun et al. 2024, arXiv:2402.17762: an activation is massive above 100 and at (about) 1000 times that median.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Record
from olmo_dynamics.quantities import MASSIVE_RANKS, find
from olmo_dynamics.recorders.compiled import compiled
from olmo_dynamics.recorders.observed import observed_tokens, values_of
from olmo_dynamics.recorders.token_kernels import (
    LARGEST,
    LOWER_MEDIAN,
    Tokens,
    middle_magnitudes,
    strip_signs,
    tokens_of,
)

MASSIVE_ABOVE = 100.0
MASSIVE_MEDIANS = 1000.0
_TOP = 3


@compiled
def _largest_places(
    codes: UInt[np.ndarray, "positions width"],
    largest: UInt[np.ndarray, " positions"],
    top: Int64[np.ndarray, " ranks"],
    places: Int64[np.ndarray, " ranks"],
) -> None:
    """Fills the largest magnitudes, largest first, and where in the flattened array they stand; ties: the earlier one."""
    positions, width = codes.shape
    all_but_sign = np.iinfo(codes.dtype).max >> 1
    top[:] = -1
    for position in range(positions):
        if np.int64(largest[position]) <= top[-1]:
            continue
        for feature in range(width):
            magnitude = np.int64(codes[position, feature] & all_but_sign)
            if magnitude <= top[-1]:
                continue
            rank = len(top) - 1
            while rank > 0 and top[rank - 1] < magnitude:
                top[rank], places[rank] = top[rank - 1], places[rank - 1]
                rank -= 1
            top[rank], places[rank] = magnitude, position * width + feature


@dataclass(frozen=True)
class _Sequence:
    """One sequence at one layer: its largest activations, largest first, and its median magnitude."""

    values: Float[np.ndarray, " ranks"]
    positions: Int64[np.ndarray, " ranks"]
    features: Int64[np.ndarray, " ranks"]
    median: float
    massive: int


class MassiveRecorder:
    """The quantities `outliers/massive_*`; recorders that saw different sequences merge exactly."""

    def __init__(self, token_ids: Int64[np.ndarray, "sequences positions"]) -> None:
        self._token_ids = token_ids
        self._layers: dict[int, dict[int, _Sequence]] = {}

    def observe(
        self,
        layer: int,
        x: Float[Tensor, "batch positions width"],
        mask: Bool[np.ndarray, "batch positions"],
        sequences: slice,
    ) -> None:
        """Adds whole sequences of a layer's output; `sequences` are their places in the probe.

        Raises:
            OptionError: the sequences were cut, so that their medians cannot be known.
        """
        observed = observed_tokens(x, mask)
        self.add(layer, observed.codes, tokens_of(observed), mask, sequences)

    def add(
        self,
        layer: int,
        codes: UInt[np.ndarray, "tokens width"],
        tokens: Tokens,
        mask: Bool[np.ndarray, "batch positions"],
        sequences: slice,
    ) -> None:
        """The same, where it is known what its tokens are like."""
        positions, wanted = mask.shape[1], self._token_ids.shape[1]
        if positions != wanted:
            raise OptionError(
                f"massive activations need whole sequences of {wanted} positions; got {positions}: do not cut them"
            )
        seen = self._layers.setdefault(layer, {})
        for row, (number, real) in enumerate(zip(range(sequences.start, sequences.stop), mask, strict=True)):
            if real.any():
                there = row * positions + np.flatnonzero(real)
                seen[number] = _measure(codes[there], tokens.magnitudes[there], np.flatnonzero(real))

    def merge(self, other: MassiveRecorder) -> None:
        """Adds what `other` saw."""
        for layer, sequences in other._layers.items():
            self._layers.setdefault(layer, {}).update(sequences)

    @property
    def layers(self) -> set[int]:
        """The layers seen."""
        return set(self._layers)

    def take(self, layer: int) -> MassiveRecorder:
        """Gives up what was seen of one layer, as a recorder of its own."""
        taken = MassiveRecorder(self._token_ids)
        if layer in self._layers:
            taken._layers[layer] = self._layers.pop(layer)
        return taken

    def finite(self, layer: int) -> bool | None:
        """Whether all activations of a layer's output were finite; None where none were seen."""
        seen = self._layers.get(layer)
        return all(math.isfinite(sequence.values[0]) for sequence in seen.values()) if seen else None

    def records(self) -> list[Record]:
        """What was measured at every layer seen."""
        records = []
        for layer, sequences in self._layers.items():
            values = self._summary(dict(sorted(sequences.items()))) if sequences else {}
            records += [
                Record(find(f"outliers/massive_{name}"), value, {"layer": layer}) for name, value in values.items()
            ]
        return records

    def _summary(self, sequences: dict[int, _Sequence]) -> dict[str, np.ndarray]:
        seen = list(sequences.values())
        top = np.full((len(seen), _TOP), math.nan)
        for row, sequence in zip(top, seen, strict=True):
            row[: len(sequence.values)] = np.abs(sequence.values[:_TOP])
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
            "token_id": _padded(self._token_ids[numbers[first], positions[first]], -1),
            "feature": _padded(features[first], -1),
        }


def _measure(
    codes: UInt[np.ndarray, "n width"], of_tokens: UInt[np.ndarray, "n 3"], positions: Int64[np.ndarray, " n"]
) -> _Sequence:
    ranks = min(MASSIVE_RANKS, codes.size)
    top, places = np.empty(ranks, np.int64), np.empty(ranks, np.int64)
    _largest_places(codes, of_tokens[:, LARGEST], top, places)
    largest = values_of(codes.reshape(-1)[places])
    median = math.nan
    if not np.isnan(largest[0]):  # NaN sorts last, so it would be found here
        magnitudes = np.empty(codes.size, codes.dtype)
        strip_signs(codes.reshape(-1), magnitudes)
        guess = np.int64(np.median(of_tokens[:, LOWER_MEDIAN]))
        middle = middle_magnitudes(magnitudes, top[0], guess)
        median = float(values_of(np.array(middle, codes.dtype)).mean())
    rows, features = np.divmod(places, codes.shape[1])
    return _Sequence(largest, positions[rows], features, median, _count_massive(codes, abs(largest[0]), median))


def _count_massive(codes: UInt[np.ndarray, "positions width"], largest: float, median: float) -> int:
    if not largest > MASSIVE_ABOVE:
        return 0
    magnitudes = np.abs(values_of(codes))
    return int(np.count_nonzero((magnitudes > MASSIVE_ABOVE) & (magnitudes >= MASSIVE_MEDIANS * median)))


def _padded(values: np.ndarray, filler: float | int) -> np.ndarray:
    """The values up to `MASSIVE_RANKS` of them, for models with fewer numbers than that."""
    padded = np.full(MASSIVE_RANKS, filler, values.dtype)
    padded[: len(values)] = values
    return padded
