"""Order statistics and quantiles, exactly, without sorting a large tensor.

The 16-bit histogram of a tensor says in which bucket an order statistic lies. For 16-bit elements the bucket is the value;
for float32 a second pass counts the lower halves within the few buckets concerned. Small tensors are simply sorted.

    >>> quantiles([0.5], 4, lambda ranks: np.array([1.0, 2.0, 3.0, 4.0])[ranks])
    array([2.5])

An *order* maps ranks (0 is the smallest) to values. Quantiles interpolate linearly between neighbours, as NumPy does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt16, UInt32

from olmo_dynamics.recorders.kernels.elements import CODES, SIGN, Tally, count_lower_halves

Order = Callable[[np.ndarray], np.ndarray]
"""A function from int64 ranks to float64 values."""

Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""A function that applies another to each item and gives the results in order: `map`, or that of a pool of threads."""

_BYTE = 256  # values that a byte can take
_LOWER_PASSES = 4  # tables of lower halves that may exist at a time


def neighbours(levels: Sequence[float], count: int) -> Int64[np.ndarray, "levels 2"]:
    """The ranks between which each quantile of `count` numbers lies."""
    lower = np.floor((count - 1) * np.asarray(levels, dtype=np.float64)).astype(np.int64)
    return np.stack([lower, np.minimum(lower + 1, count - 1)], axis=1)


def quantiles(levels: Sequence[float], count: int, order: Order) -> Float[np.ndarray, " levels"]:
    """Quantiles of `count` numbers from their order statistics, equal to numpy.quantile in float64 to the last bit."""
    position = (count - 1) * np.asarray(levels, dtype=np.float64)
    lower = position.astype(np.int64)
    low, high = order(lower), order(np.minimum(lower + 1, count - 1))
    share = position - lower
    with np.errstate(invalid="ignore"):
        step = high - low
        found: np.ndarray = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return found


def quantiles_of(levels: Sequence[float], values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " levels"]:
    """Quantiles of a small array, without warnings; NaN if it is empty or holds NaN."""
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    if len(ascending) == 0 or np.isnan(ascending[-1]):
        return np.full(len(levels), np.nan)
    return quantiles(levels, len(ascending), lambda ranks: ascending[ranks])


def _locate(counts: Int64[np.ndarray, " buckets"], ranks: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The bucket that holds each rank, and the rank within it."""
    ends = np.cumsum(counts)
    buckets = np.searchsorted(ends, ranks, side="right")
    return buckets, ranks - (ends[buckets] - counts[buckets])


def order_of_counted(values: Float[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]) -> Order:
    """Order statistics of ascending values, given how often each occurs."""
    ends = np.cumsum(counts)
    return lambda ranks: values[np.searchsorted(ends, ranks, side="right")]


def order_by_sorting(values: Float[np.ndarray, " n"]) -> Order:
    """Order statistics of a sorted copy, as float64."""
    ascending = np.sort(values)
    return lambda ranks: ascending[ranks].astype(np.float64)


class Halves:
    """Order statistics of large float32 arrays, from the counts of their upper halves and one more pass.

    The ranks to be asked for are given first, so that one pass serves them all; `run` may share it among threads.
    Memory: 512 KiB for each of the (at most about thirty) buckets concerned, and half of that for each thread of up to four.
    """

    def __init__(
        self, upper: Tally, *, ranks: Int64[np.ndarray, " a"], magnitude_ranks: Int64[np.ndarray, " b"]
    ) -> None:
        self._codes, self._counts = upper.codes.astype(np.int64), upper.counts
        histogram = np.zeros(CODES, np.int64)
        histogram[upper.codes] = upper.counts
        self._magnitude_counts = histogram[:SIGN] + histogram[SIGN:]
        codes = self._codes[_locate(self._counts, ranks)[0]]
        magnitudes = _locate(self._magnitude_counts, magnitude_ranks)[0]
        buckets = np.unique(np.concatenate([codes, magnitudes, magnitudes + SIGN]))
        self.slots = np.full(CODES, -1, np.int8)  # a small table, so that it stays in the nearest cache
        self.slots[buckets] = np.arange(len(buckets))
        self._lower: list[Integer[np.ndarray, "buckets codes"]] = []

    def count(self, arrays: Sequence[UInt16[np.ndarray, "_ 2"]], run: Run) -> None:
        """Make the second pass, over the elements' lower and upper halves."""
        shares = [arrays[start::_LOWER_PASSES] for start in range(min(_LOWER_PASSES, len(arrays)))]
        for lower in run(self._count_share, shares):
            self.add(lower)

    def add(self, lower: Integer[np.ndarray, "buckets codes"]) -> None:
        """Add counts of lower halves, made elsewhere for the upper halves that have one of the `slots` (-1: no slot)."""
        self._lower.append(lower)

    def _count_share(self, arrays: Sequence[UInt16[np.ndarray, "_ 2"]]) -> UInt32[np.ndarray, "buckets codes"]:
        lower = np.zeros((self.slots.max() + 1, CODES), np.uint32)
        for halves in arrays:
            count_lower_halves(halves, self.slots, lower)
        return lower

    def order(self, ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The values at these ranks."""
        places, within = _locate(self._counts, ranks)
        codes = self._codes[places].tolist()
        return np.array([self._value(code, rank) for code, rank in zip(codes, within.tolist(), strict=True)])

    def order_of_magnitudes(self, ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The magnitudes at these ranks."""
        codes, within = _locate(self._magnitude_counts, ranks)
        return np.array(
            [self._magnitude(code, rank) for code, rank in zip(codes.tolist(), within.tolist(), strict=True)]
        )

    def _value(self, code: int, rank: int) -> float:
        if code < SIGN:
            return _join(code, self._lower_half([code], rank))
        count = sum(int(lower[self.slots[code]].sum(dtype=np.int64)) for lower in self._lower)
        return _join(code, self._lower_half([code], count - 1 - rank))  # larger bits, smaller number

    def _magnitude(self, code: int, rank: int) -> float:
        return _join(code, self._lower_half([code, code + SIGN], rank))

    def _lower_half(self, uppers: Sequence[int], rank: int) -> int:
        """The lower half of a rank among the numbers with these upper halves, found by its upper byte and then the lower."""
        tables = [lower[self.slots[upper]].reshape(_BYTE, _BYTE) for lower in self._lower for upper in uppers]
        by_byte = np.asarray(np.sum([table.sum(1, dtype=np.int64) for table in tables], axis=0))
        [upper], [within] = _locate(by_byte, np.array([rank]))
        by_lower = np.asarray(np.sum([table[upper] for table in tables], axis=0, dtype=np.int64))
        [lower], _ = _locate(by_lower, np.array([within]))
        return int(upper) * _BYTE + int(lower)


def _join(upper: int, lower: int | np.int64) -> float:
    return float(np.array([upper << 16 | int(lower)], np.uint32).view(np.float32)[0])
