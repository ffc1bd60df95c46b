"""Fewer rows for a picture, and a note that says so.

>>> frame, note = thin(table, 5_000, by=("tensor",))  # doctest: +SKIP
>>> note  # doctest: +SKIP
'1 in 4 revisions shown'
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities import known_axes


def thin(frame: pl.DataFrame, limit: int, *, by: Sequence[str] | None = None) -> tuple[pl.DataFrame, str]:
    """At most `limit` of the rows, in their order, and a note of those shown; the note is empty where all are.

    Every k-th row of each series is kept, and each series' first and last. Where even two rows per series are too many,
    every m-th series is kept.

    Args:
        frame: rows in the order of training within each series.
        limit: the most rows, at least 2.
        by: columns that name a series; unless given, those of the frame that are axes of a known group.

    Raises:
        OptionError: the limit is below 2, or the frame lacks a column.
    """
    axes = known_axes()
    series = [name for name in frame.columns if name in axes] if by is None else list(by)
    absent = [name for name in series if name not in frame.columns]
    if limit < 2:
        raise OptionError(f"limit must be at least 2, the two ends of a series (got {limit})")
    if absent:
        raise OptionError(f"by must name columns of the table ({', '.join(frame.columns)}); got {', '.join(absent)}")
    if len(frame) <= limit:
        return frame, ""
    number = _series_numbers(frame, series)
    chosen, series_note = _fewer_series(number, limit)
    place, size = _places(number[chosen])
    stride = _stride(np.bincount(number[chosen]), limit)
    kept = chosen[(place % stride == 0) | (place == size - 1)]
    notes = [series_note, f"1 in {stride} revisions shown" if stride > 1 else ""]
    return frame[kept], ", ".join(note for note in notes if note)


def _series_numbers(frame: pl.DataFrame, by: list[str]) -> np.ndarray:
    """The number of each row's series, in order of first appearance."""
    if not by:
        return np.zeros(len(frame), dtype=np.int64)
    ranks = frame.select(pl.struct(by).rank("dense").cast(pl.Int64)).to_series().to_numpy() - 1
    _, first = np.unique(ranks, return_index=True)
    return np.take(np.argsort(np.argsort(first)), ranks)


def _fewer_series(number: np.ndarray, limit: int) -> tuple[np.ndarray, str]:
    """Rows of every m-th series, the smallest m that leaves room for each one's two ends."""
    ends = np.minimum(np.bincount(number), 2)
    every = next(every for every in range(1, len(ends) + 1) if ends[::every].sum() <= limit)
    return np.flatnonzero(number % every == 0), f"1 in {every} series shown" if every > 1 else ""


def _places(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's place within its series, and the series' size."""
    sizes = np.bincount(number)
    order = np.argsort(number, kind="stable")
    starts = np.cumsum(sizes) - sizes
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - starts[number[order]]
    return place, sizes[number]


def _stride(sizes: np.ndarray, limit: int) -> int:
    """The smallest stride that keeps at most `limit` rows, ends included."""
    sizes = sizes[sizes > 0]

    def rows(stride: int) -> int:
        return int((-(-sizes // stride) + ((sizes - 1) % stride > 0)).sum())

    smallest = max(1, int(sizes.sum()) // limit)
    return next(stride for stride in range(smallest, int(sizes.max()) + 1) if rows(stride) <= limit)
