"""Statistics of a tensor's elements, from one pass (two for large float32) over its bytes.

    >>> raw = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32).view(np.uint8)
    >>> found = tensor_stats(raw, TensorInfo("w", "F32", (5,), "f", 0, 20))
    >>> found.largest, found.magnitude_quantile(0.5)
    (2.0, 1.0)

A large tensor is read in blocks of rows, which threads may share. The blocks depend on the tensor alone and are merged in
order, so the numbers are the same, bit for bit, for any number of threads:

    parts = list(pool.map(lambda rows: block_stats(raw, info, rows), row_blocks(info)))
    found = complete(parts, pool.map)

The compiled loops release the interpreter lock. `complete` makes the second pass that large float32 needs, over the bytes
that its parts refer to: keep them until then. Bytes are never copied whole: 16-bit floats take 0.3 MB of working memory per
block, float8 32 MB more, float32 up to 80 MB, whatever the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo
from olmo_dynamics.quantities import QUANTILES
from olmo_dynamics.recorders.kernels.elements import (
    ABS,
    CODES,
    INF,
    NAN,
    SQUARE,
    ZERO,
    Axes,
    Tally,
    Totals,
    pass_over_floats,
)
from olmo_dynamics.recorders.kernels.float32.first_pass import pass_over_float32
from olmo_dynamics.recorders.kernels.half_precision import NO_TABLE, STRIP, fold, pass_over_codes, weigh
from olmo_dynamics.recorders.kernels.order_statistics import (
    Halves,
    Order,
    Run,
    neighbours,
    order_by_sorting,
    order_of_counted,
    quantiles,
)

MAGNITUDE_LEVELS = (0.5, 0.999)
"""Levels of the magnitude's quantiles that `TensorStats` holds."""

_BLOCK_BYTES = 16 << 20  # 16 MiB
_MULTIPLE = 4  # rows: a block has a multiple of so many, so that those of 16 bits are whole words
_SORTED_AT_MOST = 1 << 19  # elements: below, a sorted copy (2 MiB of float32) is quicker than a second pass
_LISTED_AT_MOST = 1 << 19  # elements with one upper half, but for the sign: a table of counts is then smaller
_ALL_CODES = np.arange(CODES, dtype=np.uint16)
with np.errstate(invalid="ignore"):  # converting a signalling NaN counts as an invalid operation
    _TABLES = {
        "BF16": (_ALL_CODES.astype(np.uint32) << 16).view(np.float32),
        "F16": _ALL_CODES.view(np.float16).astype(np.float32),
    }


def _half_precision_codes() -> dict[str, UInt16[np.ndarray, " 256"]]:
    """The float16 code of each code of float8, all of whose numbers float16 holds exactly."""
    codes = np.arange(256)
    sign, exponent, mantissa = codes >> 7, codes >> 3 & 15, codes & 7
    magnitude = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    magnitude[codes & 127 == 127] = np.nan  # E4M3 has no infinity
    e4m3 = np.where(sign > 0, -magnitude, magnitude).astype(np.float16)
    return {"F8_E4M3": e4m3.view(np.uint16), "F8_E5M2": (codes << 8).astype(np.uint16)}


_FROM_FLOAT8 = _half_precision_codes()


@dataclass(frozen=True)
class TensorStats:
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
        """True if there is neither NaN nor infinity."""
        return self.nan_count == 0 and self.inf_count == 0

    def magnitude_quantile(self, level: float) -> float:
        """A quantile of |x|, for one of `MAGNITUDE_LEVELS`."""
        return float(self.magnitude_quantiles[MAGNITUDE_LEVELS.index(level)])


def measurable(info: TensorInfo) -> bool:
    """True if a tensor holds floating-point numbers, and at least one."""
    return info.dtype in FLOAT_DTYPES and info.size > 0


@dataclass(frozen=True)
class BlockStats:
    """Statistics of one block of rows, or of several that follow one another.

    The tally of 16-bit floats determines their totals, which are found at the end. That of longer floats is of their upper
    16 bits, and `blocks` are the elements themselves, not copied, with the tally of each block, for the second pass.
    """

    dtype: str
    totals: Totals
    tally: Tally
    axes: Axes
    blocks: tuple[tuple[np.ndarray, Tally], ...] = ()

    def merge(self, *later: BlockStats) -> BlockStats:
        """This block and later ones, in order, as one."""
        parts = (self, *later)
        return BlockStats(
            self.dtype,
            Totals.merge([part.totals for part in parts]),
            Tally.merge([part.tally for part in parts]),
            Axes.merge([part.axes for part in parts]),
            tuple(block for part in parts for block in part.blocks),
        )


def row_blocks(info: TensorInfo) -> list[slice]:
    """Blocks of whole rows of about 16 MiB, as equal as possible; a tensor of one axis is one row."""
    rows, _ = matrix_shape(info)
    blocks = max(1, min(-(-info.nbytes // _BLOCK_BYTES), rows // _MULTIPLE))
    height = -(-rows // (blocks * _MULTIPLE)) * _MULTIPLE
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def block_stats(
    raw: UInt8[np.ndarray, " bytes"], info: TensorInfo, rows: slice, *, column_sums: bool = False
) -> BlockStats:
    """Read some rows of a measurable tensor, given all its bytes.

    Sums by row and column are taken if the tensor touches the residual stream, or if sums of columns are asked for.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape needs.
    """
    if raw.nbytes != info.nbytes:
        raise CheckpointError(f"{info.name} must be {info.nbytes} bytes (got {raw.nbytes}); fetch the checkpoint again")
    columns = matrix_shape(info)[1]
    row_bytes = columns * info.nbytes // info.size
    block = _aligned(raw[rows.start * row_bytes : rows.stop * row_bytes])
    shape = (rows.stop - rows.start, columns)
    by_axis = info.residual_axis is not None or column_sums
    axes = Axes.of(shape, means=column_sums) if by_axis else Axes.none()
    with np.errstate(invalid="ignore"):  # NaN and infinities are measured, not warned of
        if info.dtype in _FROM_FLOAT8:
            return _stats_of_codes(_aligned(_FROM_FLOAT8[info.dtype][block].view(np.uint8)), "F16", shape, axes)
        if info.dtype in _TABLES:
            return _stats_of_codes(block, info.dtype, shape, axes)
        return _stats_of_floats(block, info.dtype, shape, axes)


def complete(parts: Sequence[BlockStats], run: Run = map) -> TensorStats:
    """The statistics of a tensor from its blocks, in order; `run` may share the work left among threads."""
    whole = parts[0].merge(*parts[1:]) if len(parts) > 1 else parts[0]
    with np.errstate(invalid="ignore"):
        if whole.dtype in _TABLES:
            return _describe_codes(whole)
        return describe(whole, whole.totals, orders=_orders_of_floats(whole, run))


def tensor_stats(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo, *, column_sums: bool = False) -> TensorStats:
    """Read a measurable tensor's bytes, block after block.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape needs.
    """
    return complete([block_stats(raw, info, rows, column_sums=column_sums) for rows in row_blocks(info)])


def matrix_shape(info: TensorInfo) -> tuple[int, int]:
    """Rows and columns, all axes but the last taken as one; a tensor of one axis is one row."""
    columns = info.shape[-1] if info.shape else 1
    return info.size // columns, columns


def _aligned(block: np.ndarray) -> np.ndarray:
    """The same bytes, read-only, and copied if they are not aligned, so that one compiled version serves all."""
    block = block.view() if block.ctypes.data % 8 == 0 else block.copy()
    block.flags.writeable = False
    return block


def _stats_of_codes(block: np.ndarray, dtype: str, shape: tuple[int, int], axes: Axes) -> BlockStats:
    whole_strips = shape[0] // STRIP * STRIP * shape[1] * 2  # bytes
    table = NO_TABLE if dtype == "BF16" else _TABLES[dtype]
    found = pass_over_codes(block.view(np.uint16).reshape(shape), block[:whole_strips].view(np.uint64), table, axes)
    return BlockStats(dtype, Totals.zeros(), Tally(*found), axes)


def _stats_of_floats(block: np.ndarray, dtype: str, shape: tuple[int, int], axes: Axes) -> BlockStats:
    values = block.view(np.float32 if dtype == "F32" else np.float64).reshape(shape)
    totals = Totals.zeros()
    upper = values.reshape(-1).view(np.uint16)[values.itemsize // 2 - 1 :: values.itemsize // 2].reshape(shape)
    found = Tally(*(pass_over_float32 if dtype == "F32" else pass_over_floats)(values, upper, totals, axes))
    return BlockStats(dtype, totals, found, axes, ((values, found),))


def _orders_of_floats(whole: BlockStats, run: Run) -> tuple[Order, Order]:
    count = sum(values.size for values, _ in whole.blocks)
    if is_sorted(whole.dtype, count):
        flat = np.concatenate([values.reshape(-1) for values, _ in whole.blocks])
        return order_by_sorting(flat), order_by_sorting(np.abs(flat))
    exact = halves(whole.tally, count, listed_at_most=_LISTED_AT_MOST)
    exact.gather(whole.blocks, run)
    return exact.order, exact.order_of_magnitudes


def is_sorted(dtype: str, count: int) -> bool:
    """True if so many float32 or float64 elements are sorted rather than counted."""
    return dtype == "F64" or count <= _SORTED_AT_MOST


def halves(upper: Tally, count: int, *, listed_at_most: int = 0) -> Halves:
    """The order statistics that `TensorStats` needs of `count` float32 elements, before their second pass."""
    return Halves(
        upper,
        ranks=np.concatenate([np.array([0, count - 1]), neighbours(QUANTILES, count).ravel()]),
        magnitude_ranks=neighbours(MAGNITUDE_LEVELS, count).ravel(),
        listed_at_most=listed_at_most,
    )


def _describe_codes(whole: BlockStats) -> TensorStats:
    values = _TABLES[whole.dtype][whole.tally.codes].astype(np.float64)
    counts = whole.tally.counts
    totals = Totals.zeros()
    weigh(values, counts, totals)
    orders = order_of_counted(values, counts), order_of_counted(*fold(values, counts))
    return describe(whole, totals, orders=orders)


def describe(whole: BlockStats, totals: Totals, *, orders: tuple[Order, Order]) -> TensorStats:
    """The statistics that follow from sums, and from the orders of values and of magnitudes."""
    moments = totals.moments
    count = int(moments[0])
    if totals.counts[NAN]:
        orders = _all_nan, _all_nan
    smallest, largest = orders[0](np.array([0, count - 1]))
    if totals.counts[INF]:
        moments = np.array([count, smallest + largest, np.nan, np.nan, np.nan])
    elif smallest == largest:  # so that rounding in the mean cannot make a constant tensor look varied
        moments = np.array([count, smallest, 0.0, 0.0, 0.0])
    zeros, nans, infinities = (int(totals.counts[place]) for place in (ZERO, NAN, INF))
    return TensorStats(
        count, zeros, nans, infinities, moments,
        float(totals.sums[ABS]), float(totals.sums[SQUARE]), float(smallest), float(largest),
        quantiles(QUANTILES, count, orders[0]), quantiles(MAGNITUDE_LEVELS, count, orders[1]), whole.axes,
    )  # fmt: skip


def _all_nan(ranks: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.full(len(ranks), np.nan)
