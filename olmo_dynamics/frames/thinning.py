"""Fewer rows for a picture, with every extreme kept, and a note that counts them.

>>> frame, note = thin(table, 5_000, value="rms", by=("tensor",))  # doctest: +SKIP
>>> note  # doctest: +SKIP
'4,850 of 32,040 rows drawn, every extreme among them'
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.quantities import known_axes


def thin(
    frame: pl.DataFrame, limit: int, *, value: str | None = None, by: Sequence[str] | None = None
) -> tuple[pl.DataFrame, str]:
    """About `limit` of the rows, in their order, and a note that counts them; the note is empty where all are kept.

    Each series is cut into buckets of neighbouring rows, and of each bucket the first row, the last, and those with the
    least and the greatest value are kept (M4, Jugel et al. 2014), so the line of a series keeps every spike. The limit is
    exceeded where even one bucket per series has more rows.

    Args:
        frame: rows in the order of training within each series.
        limit: the number of rows to aim for, at least 2.
        value: the column that is drawn; unless given, the extremes of every column of real numbers are kept.
        by: columns that name a series; unless given, the line of training and those of the frame that are axes of a known
            group.

    Raises:
        OptionError: the limit is below 2, or the frame lacks a column.
    """
    axes = ("line", *known_axes())
    series = [name for name in frame.columns if name in axes] if by is None else list(by)
    real = [name for name, dtype in frame.schema.items() if dtype.is_float() and name not in (*LEADING, *series)]
    values = real if value is None else [value]
    _require_columns(frame, "by", series)
    _require_columns(frame, "value", values)
    if limit < 2:
        raise OptionError(f"limit must be at least 2, the two ends of a series (got {limit})")
    if len(frame) <= limit:
        return frame, ""
    number = _series_numbers(frame, series)
    place, size = _places(number)
    length = _bucket_length(np.bincount(number), limit, rows=2 + 2 * len(values))
    kept = (place % length == 0) | (place % length == length - 1) | (place == size - 1)
    buckets = pl.DataFrame({"series": number, "bucket": place // length})
    for name in values:
        column = frame[name].cast(pl.Float64).fill_nan(None)
        held = buckets.with_columns(column.alias("value"), row=pl.int_range(pl.len())).drop_nulls("value")
        ends = held.group_by("series", "bucket").agg(
            pl.col("row").get(pl.col("value").arg_min()).alias("least"),
            pl.col("row").get(pl.col("value").arg_max()).alias("greatest"),
        )
        kept[ends["least"].to_numpy()] = kept[ends["greatest"].to_numpy()] = True
    if kept.all():
        return frame, ""
    return frame.filter(kept), f"{kept.sum():,} of {len(frame):,} rows drawn, every extreme among them"


def _require_columns(frame: pl.DataFrame, argument: str, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise OptionError(
            f"{argument} must name columns of the table ({', '.join(frame.columns)}); got {', '.join(absent)}"
        )


def _series_numbers(frame: pl.DataFrame, by: list[str]) -> np.ndarray:
    """The number of each row's series."""
    if not by:
        return np.zeros(len(frame), dtype=np.int64)
    return frame.select(pl.struct(by).rank("dense").cast(pl.Int64)).to_series().to_numpy() - 1


def _places(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's place within its series, and the series' size."""
    sizes = np.bincount(number)
    order = np.argsort(number, kind="stable")
    starts = np.cumsum(sizes) - sizes
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - starts[number[order]]
    return place, sizes[number]


def _bucket_length(sizes: np.ndarray, limit: int, *, rows: int) -> int:
    """The shortest buckets of which all series together have few enough, with so many rows kept of each."""
    length = max(rows, int(sizes.sum()) * rows // limit)
    while length < sizes.max() and (-(-sizes // length)).sum() * rows > limit:
        length += max(1, length // 20)
    return min(length, int(sizes.max()))
