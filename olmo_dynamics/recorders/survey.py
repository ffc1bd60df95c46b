"""Everything we know of a tensor's elements after one pass (two for large float32) over its bytes.

    >>> raw = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32).view(np.uint8)
    >>> found = survey_tensor(raw, TensorInfo("w", "F32", (5,), "f", 0, 20))
    >>> found.largest, found.magnitude_quantile(0.5)
    (2.0, 1.0)

A large tensor is surveyed in blocks of rows, which threads may share; the blocks depend on the tensor alone and are merged in
order, so the numbers are the same, bit for bit, however many threads there are:

    parts = list(pool.map(lambda rows: survey_rows(raw, info, rows), row_blocks(info)))
    found = complete(parts, pool.map)

The compiled loops hold no lock of the interpreter. `complete` makes the second pass that large float32 needs, over the bytes
that its parts refer to: keep them until then. Bytes are never copied whole: 16-bit floats take 0.3 MB of working memory a
block, float32 up to 80 MB, whatever the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo
from olmo_dynamics.quantities import QUANTILES
from olmo_dynamics.recorders.code_kernels import NO_TABLE, STRIP, fold, pass_over_codes, weigh
from olmo_dynamics.recorders.kernels import ABS, CODES, INF, NAN, SQUARE, ZERO, Axes, Tally, Totals, pass_over_floats
from olmo_dynamics.recorders.order import (
    Halves,
    Order,
    Run,
    neighbours,
    order_by_sorting,
    order_of_counted,
    quantiles,
)

MAGNITUDE_LEVELS = (0.5, 0.999)
"""Quantiles of the magnitude that `Survey.magnitude_quantile` can give."""

_BLOCK_BYTES = 16 << 20  # 16 MiB
_SORTED_AT_MOST = 1 << 18  # elements: below, a sorted copy (2 MiB) is quicker than a second pass
_ALL_CODES = np.arange(CODES, dtype=np.uint16)
with np.errstate(invalid="ignore"):  # converting a signalling NaN counts as an invalid operation
    _TABLES = {
        "BF16": (_ALL_CODES.astype(np.uint32) << 16).view(np.float32),
        "F16": _ALL_CODES.view(np.float16).astype(np.float32),
    }


@dataclass(frozen=True)
class Survey:
    """A tensor's elementwise sums, counts and order statistics, and its sums along two axes.

    With NaN in the tensor every number but the counts and the axes' sums is NaN.
    """

    count: int
    zero_count: int
    nan_count: int
    inf_count: int
    moments: Float[np.ndarray, " 5"]
    abs_sum: float
    square_sum: float
    smallest: float
    largest: float
    quantiles: Float[np.ndarray, " quantile"]
    magnitude_quantiles: Float[np.ndarray, " 2"]
    axes: Axes

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity."""
        return self.nan_count == 0 and self.inf_count == 0

    def magnitude_quantile(self, level: float) -> float:
        """A quantile of |x|, for one of `MAGNITUDE_LEVELS`."""
        return float(self.magnitude_quantiles[MAGNITUDE_LEVELS.index(level)])


def measurable(info: TensorInfo) -> bool:
    """Whether a tensor holds floating-point numbers, and at least one."""
    return info.dtype in FLOAT_DTYPES and info.size > 0


@dataclass(frozen=True)
class Partial:
    """What is known after one block of rows, or several that follow one another.

    The tally of 16-bit floats says all of their elements, so their totals are found at the end; that of longer floats is of
    their upper 16 bits, and `values` are the elements themselves, not copied, for the second pass.
    """

    dtype: str
    totals: Totals
    tally: Tally
    axes: Axes
    values: tuple[np.ndarray, ...] = ()

    def merge(self, *later: Partial) -> Partial:
        """This block and later ones, in order, as one."""
        parts = (self, *later)
        return Partial(
            self.dtype,
            Totals.merge([part.totals for part in parts]),
            Tally.merge([part.tally for part in parts]),
            Axes.merge([part.axes for part in parts]),
            tuple(values for part in parts for values in part.values),
        )


def row_blocks(info: TensorInfo) -> list[slice]:
    """Blocks of whole rows of about 16 MiB, as equal as can be; a tensor of one axis is one row."""
    rows, _ = matrix_shape(info)
    blocks = max(1, min(-(-info.nbytes // _BLOCK_BYTES), rows // STRIP))
    height = -(-rows // (blocks * STRIP)) * STRIP
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def survey_rows(
    raw: UInt8[np.ndarray, " bytes"], info: TensorInfo, rows: slice, *, column_sums: bool = False
) -> Partial:
    """Reads some rows of a measurable tensor, given all its bytes; sums by row and column are taken where it touches
    the residual stream, or where the sums of columns are asked for.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape asks for.
    """
    if raw.nbytes != info.nbytes:
        raise CheckpointError(
            f"{info.name} should be {info.nbytes} bytes; got {raw.nbytes}: fetch the checkpoint again"
        )
    columns = matrix_shape(info)[1]
    row_bytes = columns * info.nbytes // info.size
    block = _aligned(raw[rows.start * row_bytes : rows.stop * row_bytes])
    shape = (rows.stop - rows.start, columns)
    wanted = info.residual_axis is not None or column_sums
    axes = Axes.of(shape, means=column_sums) if wanted else Axes.none()
    with np.errstate(invalid="ignore"):  # NaN and infinities are measured, not warned of
        if info.dtype in _TABLES:
            return _survey_codes(block, info.dtype, shape, axes)
        return _survey_floats(block, info.dtype, shape, axes)


def complete(parts: Sequence[Partial], run: Run = map) -> Survey:
    """The survey of a tensor from its blocks, in order; `run` may share what is left to do among threads."""
    whole = parts[0].merge(*parts[1:]) if len(parts) > 1 else parts[0]
    with np.errstate(invalid="ignore"):
        if whole.dtype in _TABLES:
            return _describe_codes(whole)
        return describe(whole, whole.totals, orders=_orders_of_floats(whole, run))


def survey_tensor(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo, *, column_sums: bool = False) -> Survey:
    """Reads a measurable tensor's bytes, block after block.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape asks for.
    """
    return complete([survey_rows(raw, info, rows, column_sums=column_sums) for rows in row_blocks(info)])


def matrix_shape(info: TensorInfo) -> tuple[int, int]:
    """Rows and columns, all axes but the last taken as one; a tensor of one axis is one row."""
    columns = info.shape[-1] if info.shape else 1
    return info.size // columns, columns


def _aligned(block: np.ndarray) -> np.ndarray:
    """The same bytes, read-only and copied if need be, so that one compiled version serves all."""
    block = block.view() if block.ctypes.data % 8 == 0 else block.copy()
    block.flags.writeable = False
    return block


def _survey_codes(block: np.ndarray, dtype: str, shape: tuple[int, int], axes: Axes) -> Partial:
    whole_strips = shape[0] // STRIP * STRIP * shape[1] * 2  # bytes
    table = NO_TABLE if dtype == "BF16" else _TABLES[dtype]
    found = pass_over_codes(block.view(np.uint16).reshape(shape), block[:whole_strips].view(np.uint64), table, axes)
    return Partial(dtype, Totals.zeros(), Tally(*found), axes)


def _survey_floats(block: np.ndarray, dtype: str, shape: tuple[int, int], axes: Axes) -> Partial:
    values = block.view(np.float32 if dtype == "F32" else np.float64).reshape(shape)
    totals = Totals.zeros()
    found = pass_over_floats(values, _halves(values)[:, -1].reshape(shape), totals, axes)
    return Partial(dtype, totals, Tally(*found), axes, (values,))


def _halves(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1).view(np.uint16).reshape(values.size, values.itemsize // 2)


def _orders_of_floats(whole: Partial, run: Run) -> tuple[Order, Order]:
    count = sum(values.size for values in whole.values)
    if is_sorted(whole.dtype, count):
        flat = np.concatenate([values.reshape(-1) for values in whole.values])
        return order_by_sorting(flat), order_by_sorting(np.abs(flat))
    exact = halves(whole.tally, count)
    exact.count([_halves(values) for values in whole.values], run)
    return exact.order, exact.order_of_magnitudes


def is_sorted(dtype: str, count: int) -> bool:
    """Whether so many float32 or float64 elements are sorted rather than counted."""
    return dtype == "F64" or count <= _SORTED_AT_MOST


def halves(upper: Tally, count: int) -> Halves:
    """The order statistics that a survey needs of `count` float32 elements; their lower halves are yet to be counted."""
    return Halves(
        upper,
        ranks=np.concatenate([np.array([0, count - 1]), neighbours(QUANTILES, count).ravel()]),
        magnitude_ranks=neighbours(MAGNITUDE_LEVELS, count).ravel(),
    )


def _describe_codes(whole: Partial) -> Survey:
    values = _TABLES[whole.dtype][whole.tally.codes].astype(np.float64)
    counts = whole.tally.counts
    totals = Totals.zeros()
    weigh(values, counts, totals)
    orders = order_of_counted(values, counts), order_of_counted(*fold(values, counts))
    return describe(whole, totals, orders=orders)


def describe(whole: Partial, totals: Totals, *, orders: tuple[Order, Order]) -> Survey:
    """The survey that sums, and the orders of values and of magnitudes, amount to."""
    moments = totals.moments
    count = int(moments[0])
    if totals.counts[NAN]:
        orders = _nothing, _nothing
    smallest, largest = orders[0](np.array([0, count - 1]))
    if totals.counts[INF]:
        moments = np.array([count, smallest + largest, np.nan, np.nan, np.nan])
    elif smallest == largest:  # so that rounding in the mean cannot make a constant tensor look varied
        moments = np.array([count, smallest, 0.0, 0.0, 0.0])
    zeros, nans, infinities = (int(totals.counts[place]) for place in (ZERO, NAN, INF))
    return Survey(
        count, zeros, nans, infinities, moments,
        float(totals.sums[ABS]), float(totals.sums[SQUARE]), float(smallest), float(largest),
        quantiles(QUANTILES, count, orders[0]), quantiles(MAGNITUDE_LEVELS, count, orders[1]), whole.axes,
    )  # fmt: skip


def _nothing(ranks: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.full(len(ranks), np.nan)
