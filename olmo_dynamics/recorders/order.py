"""Order statistics and quantiles, exactly, without sorting a large tensor.

The 16-bit histogram of a tensor says in which bucket an order statistic lies. For 16-bit elements the bucket is the value;
for float32 a second pass counts the lower halves within the few buckets concerned. Small tensors are simply sorted.

    >>> quantiles(np.array([0.5]), 4, lambda ranks: np.array([1.0, 2.0, 3.0, 4.0])[ranks])
    array([2.5])

An *order* maps ranks (0 is the smallest) to values. Quantiles interpolate linearly between neighbours, as NumPy does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt16

from olmo_dynamics.recorders.kernels import CODES, count_lower_halves

Order = Callable[[np.ndarray], np.ndarray]
"""From int64 ranks to float64 values."""

_NEGATIVE = CODES // 2  # the sign bit: codes from here up are negative
_ASCENDING = np.concatenate([np.arange(CODES - 1, _NEGATIVE - 1, -1), np.arange(_NEGATIVE)])


def neighbours(levels: Sequence[float], count: int) -> Int64[np.ndarray, "levels 2"]:
    """The ranks between which each quantile of `count` numbers lies."""
    lower = np.floor((count - 1) * np.asarray(levels, dtype=np.float64)).astype(np.int64)
    return np.stack([lower, np.minimum(lower + 1, count - 1)], axis=1)


def quantiles(levels: Sequence[float], count: int, order: Order) -> Float[np.ndarray, " levels"]:
    """Quantiles of `count` numbers from their order statistics: what numpy.quantile gives in float64, to the last bit."""
    ranks = neighbours(levels, count)
    low, high = order(ranks[:, 0]), order(ranks[:, 1])
    share = (count - 1) * np.asarray(levels, dtype=np.float64) - ranks[:, 0]
    with np.errstate(invalid="ignore"):
        step = high - low
        found: np.ndarray = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return found


def quantiles_of(levels: Sequence[float], values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " levels"]:
    """Quantiles of a small array; NaN where it is empty or holds NaN, and no warnings."""
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    if len(ascending) == 0 or np.isnan(ascending[-1]):
        return np.full(len(levels), np.nan)
    return quantiles(levels, len(ascending), lambda ranks: ascending[ranks])


def _locate(counts: Int64[np.ndarray, " buckets"], ranks: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The bucket that holds each rank, and the rank within it."""
    ends = np.cumsum(counts)
    buckets = np.searchsorted(ends, ranks, side="right")
    return buckets, ranks - (ends[buckets] - counts[buckets])


def _magnitude_counts(histogram: Int64[np.ndarray, " codes"]) -> Int64[np.ndarray, " magnitudes"]:
    counts: np.ndarray = histogram[:_NEGATIVE] + histogram[_NEGATIVE:]
    return counts


def order_of_codes(histogram: Int64[np.ndarray, " codes"], table: Float32[np.ndarray, " codes"]) -> Order:
    """Order statistics of 16-bit floats from the counts of their codes; `table` gives each code's value."""
    return lambda ranks: table[_ASCENDING[_locate(histogram[_ASCENDING], ranks)[0]]].astype(np.float64)


def order_of_code_magnitudes(histogram: Int64[np.ndarray, " codes"], table: Float32[np.ndarray, " codes"]) -> Order:
    """The same for their magnitudes."""
    return lambda ranks: table[_locate(_magnitude_counts(histogram), ranks)[0]].astype(np.float64)


def order_by_sorting(values: Float[np.ndarray, " n"]) -> Order:
    """Order statistics of a sorted float64 copy."""
    ascending = np.sort(values.astype(np.float64))
    return lambda ranks: ascending[ranks]


class Halves:
    """Order statistics of a large float32 array, from the counts of its upper halves and one more pass.

    The ranks that will be asked for are named first, so that one pass serves them all. Memory: 512 KiB for each of the
    (at most about thirty) buckets concerned.
    """

    def __init__(
        self,
        halves: UInt16[np.ndarray, "n 2"],
        histogram: Int64[np.ndarray, " codes"],
        *,
        ranks: Int64[np.ndarray, " a"],
        magnitude_ranks: Int64[np.ndarray, " b"],
    ) -> None:
        self._histogram = histogram
        codes = _ASCENDING[_locate(histogram[_ASCENDING], ranks)[0]]
        magnitudes = _locate(_magnitude_counts(histogram), magnitude_ranks)[0]
        wanted = np.unique(np.concatenate([codes, magnitudes, magnitudes + _NEGATIVE]))
        self._slots = np.full(CODES, -1)
        self._slots[wanted] = np.arange(len(wanted))
        self._lower = np.zeros((len(wanted), CODES), np.int64)
        count_lower_halves(halves, self._slots, self._lower)

    def order(self, ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The values at these ranks."""
        buckets, within = _locate(self._histogram[_ASCENDING], ranks)
        return np.array(
            [self._value(code, rank) for code, rank in zip(_ASCENDING[buckets].tolist(), within.tolist(), strict=True)]
        )

    def order_of_magnitudes(self, ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The magnitudes at these ranks."""
        buckets, within = _locate(_magnitude_counts(self._histogram), ranks)
        return np.array(
            [self._magnitude(code, rank) for code, rank in zip(buckets.tolist(), within.tolist(), strict=True)]
        )

    def _value(self, code: int, rank: int) -> float:
        lower = self._lower[self._slots[code]]
        if code < _NEGATIVE:
            return _join(code, _locate(lower, np.array([rank]))[0][0])
        return _join(code, CODES - 1 - _locate(lower[::-1], np.array([rank]))[0][0])  # larger bits, smaller number

    def _magnitude(self, code: int, rank: int) -> float:
        lower = self._lower[self._slots[code]] + self._lower[self._slots[code + _NEGATIVE]]
        return _join(code, _locate(lower, np.array([rank]))[0][0])


def _join(upper: int, lower: int | np.int64) -> float:
    return float(np.array([upper << 16 | int(lower)], np.uint32).view(np.float32)[0])
