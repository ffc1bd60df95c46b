"""Order statistics and quantiles, exactly, without sorting a large tensor.

The 16-bit histogram of a tensor says in which bucket an order statistic lies. For 16-bit elements the bucket is the value;
for float32 a second pass gathers the lower halves within the few buckets concerned. Small tensors are simply sorted.

    >>> quantiles([0.5], 4, lambda ranks: np.array([1.0, 2.0, 3.0, 4.0])[ranks])
    array([2.5])

An *order* maps ranks (0 is the smallest) to values. Quantiles interpolate linearly between neighbours, as NumPy does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, Integer, UInt16

from olmo_dynamics.recorders.kernels.elements import CODES, SIGN, Tally
from olmo_dynamics.recorders.kernels.float32.second_pass import Room, gather

Order = Callable[[np.ndarray], np.ndarray]
"""A function from int64 ranks to float64 values."""

Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""A function that applies another to each item and gives the results in order: `map`, or that of a pool of threads."""

_BYTE = 256  # values that a byte can take
_SHARES = 4  # of the second pass, each of which may have tables of its own


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


def _locate(ends: Int64[np.ndarray, " buckets"], ranks: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The bucket that holds each rank, and the rank within it, from the rank at which each bucket ends."""
    buckets = np.searchsorted(ends, ranks, side="right")
    return buckets, ranks - np.where(buckets > 0, ends[buckets - 1], 0)


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

    The ranks to be asked for are given first, so that one pass serves them all; `run` may share it among threads. Of each of the
    (at most about thirty) buckets concerned, up to `listed_at_most` elements are listed, of 2 bytes each, and more are counted
    in tables: of 256 KiB, for each thread of up to four.
    """

    def __init__(
        self,
        upper: Tally,
        *,
        ranks: Int64[np.ndarray, " a"],
        magnitude_ranks: Int64[np.ndarray, " b"],
        listed_at_most: int = 0,
    ) -> None:
        self._codes, self._counts = upper.codes.astype(np.int64), upper.counts
        histogram = np.zeros(CODES, np.int64)
        histogram[upper.codes] = upper.counts
        folded = histogram[:SIGN] + histogram[SIGN:]
        self._magnitudes = np.flatnonzero(folded)
        self._ends, self._magnitude_ends = np.cumsum(self._counts), np.cumsum(folded[self._magnitudes])
        codes = self._codes[_locate(self._ends, ranks)[0]]
        magnitudes = self._magnitudes[_locate(self._magnitude_ends, magnitude_ranks)[0]]
        buckets = np.unique(np.concatenate([codes, magnitudes, magnitudes + SIGN]))
        few = folded[buckets % SIGN] <= listed_at_most  # the same for both signs
        self._listed, tabled = buckets[few], buckets[~few]
        self.slots = np.full(CODES, -1, np.int8)
        self.slots[tabled] = np.arange(len(tabled))
        self._tables: list[Integer[np.ndarray, "buckets codes"]] = []
        self._lists: list[dict[int, UInt16[np.ndarray, " n"]]] = []

    def gather(self, blocks: Sequence[tuple[Float32[np.ndarray, "_ _"], Tally]], run: Run) -> None:
        """Make the second pass, over blocks of the elements and what the first pass counted of each."""
        shares = [blocks[start::_SHARES] for start in range(min(_SHARES, len(blocks)))]
        for room in run(self._gather_share, shares):
            self.add(room.tables)
            lists = np.split(room.lower, room.ends)[:-1]  # each ends where the next begins
            self._lists.append(dict(zip(self._listed.tolist(), lists, strict=True)))

    def add(self, tables: Integer[np.ndarray, "buckets codes"]) -> None:
        """Add counts of lower halves, made elsewhere for the upper halves that have one of the `slots` (-1: no slot)."""
        self._tables.append(tables)

    def _gather_share(self, blocks: Sequence[tuple[Float32[np.ndarray, "_ _"], Tally]]) -> Room:
        slots = np.zeros(CODES, np.uint8)  # a small table, so that it stays in the nearest cache
        slots[self._listed] = np.arange(1, len(self._listed) + 1)
        tabled = self.slots >= 0
        slots[tabled] = self.slots[tabled] + len(self._listed) + 1
        histogram = np.zeros(CODES, np.int64)
        for _, tally in blocks:
            histogram[tally.codes] += tally.counts
        room = Room.of(histogram[self._listed], tables=int(tabled.sum()))
        for values, _ in blocks:
            gather(values, slots, room)
        return room

    def order(self, ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The values at these ranks."""
        places, within = _locate(self._ends, ranks)
        codes = self._codes[places]
        # among negative numbers, larger bits make a smaller one
        upwards = np.where(codes < SIGN, within, self._counts[places] - 1 - within)
        return self._values([[code] for code in codes.tolist()], upwards)

    def order_of_magnitudes(self, ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The magnitudes at these ranks."""
        places, within = _locate(self._magnitude_ends, ranks)
        codes = self._magnitudes[places].tolist()
        return self._values([[code, code + SIGN] for code in codes], within)

    def _values(self, uppers: Sequence[Sequence[int]], ranks: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The numbers at some ranks, by their bits, among those with some upper halves."""
        return np.array([_join(codes[0], self._lower_half(codes, rank))
                         for codes, rank in zip(uppers, ranks.tolist(), strict=True)])  # fmt: skip

    def _lower_half(self, uppers: Sequence[int], rank: int) -> int:
        """The lower half of a rank among the numbers with these upper halves, found in lists, or in tables by its upper byte."""
        if uppers[0] in self._listed:
            listed = np.concatenate([lists[upper] for lists in self._lists for upper in uppers])
            return int(np.partition(listed, rank)[rank])
        tables = [each[self.slots[upper]].reshape(_BYTE, _BYTE) for each in self._tables for upper in uppers]
        by_byte = np.asarray(np.sum([table.sum(1, dtype=np.int64) for table in tables], axis=0))
        [upper], [within] = _locate(np.cumsum(by_byte), np.array([rank]))
        by_lower = np.asarray(np.sum([table[upper] for table in tables], axis=0, dtype=np.int64))
        [lower], _ = _locate(np.cumsum(by_lower), np.array([within]))
        return int(upper) * _BYTE + int(lower)


def _join(upper: int, lower: int | np.int64) -> float:
    return float(np.array([upper << 16 | int(lower)], np.uint32).view(np.float32)[0])
