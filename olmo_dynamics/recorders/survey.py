"""Everything we know of a tensor's elements after one pass (two for large float32) over its bytes.

    >>> raw = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32).view(np.uint8)
    >>> found = survey_tensor(raw, TensorInfo("w", "F32", (5,), "f", 0, 20))
    >>> found.largest, found.magnitude_quantile(0.5)
    (2.0, 1.0)

The bytes are never copied whole: bfloat16 takes about 2 MiB of working memory, float32 up to 16 MiB, whatever their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo
from olmo_dynamics.quantities import QUANTILES
from olmo_dynamics.recorders.kernels import (
    ABS,
    CODES,
    INF,
    NAN,
    NO_TABLE,
    SQUARE,
    ZERO,
    Axes,
    Totals,
    pass_over_codes,
    pass_over_floats,
)
from olmo_dynamics.recorders.order import (
    Halves,
    Order,
    neighbours,
    order_by_sorting,
    order_of_code_magnitudes,
    order_of_codes,
    quantiles,
)

MAGNITUDE_LEVELS = (0.5, 0.999)
"""Quantiles of the magnitude that `Survey.magnitude_quantile` can give."""

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


def survey_tensor(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo, *, column_sums: bool = False) -> Survey:
    """Reads a measurable tensor's bytes; sums by row and column are taken where it touches the residual stream.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape asks for.
    """
    if raw.nbytes != info.nbytes:
        raise CheckpointError(
            f"{info.name} should be {info.nbytes} bytes; got {raw.nbytes}: fetch the checkpoint again"
        )
    shape = _matrix_shape(info)
    along_axes = info.residual_axis is not None or column_sums
    axes = Axes.of(shape, means=column_sums) if along_axes else Axes.none()
    raw = raw.view()
    raw.flags.writeable = False  # one compiled version serves borrowed and owned bytes
    with np.errstate(invalid="ignore"):  # NaN and infinities are measured, not warned of
        if info.dtype in _TABLES:
            return _survey_codes(raw.view(np.uint16).reshape(shape), info.dtype, axes)
        return _survey_floats(raw.view(np.float32 if info.dtype == "F32" else np.float64).reshape(shape), axes)


def _matrix_shape(info: TensorInfo) -> tuple[int, int]:
    columns = info.shape[-1] if info.shape else 1
    return info.size // columns, columns


def _survey_codes(codes: np.ndarray, dtype: str, axes: Axes) -> Survey:
    table = _TABLES[dtype]
    histogram = np.zeros(CODES, np.int64)
    pass_over_codes(codes, histogram, axes, NO_TABLE if dtype == "BF16" else table)
    present = np.flatnonzero(histogram)
    values, weights = table[present].astype(np.float64), histogram[present]
    counts = np.array([weights[values == 0].sum(), weights[np.isnan(values)].sum(), weights[np.isinf(values)].sum()])
    sums = np.array([(np.abs(values) * weights).sum(), (values**2 * weights).sum()])
    moments = _weighted_moments(values, weights)
    return _complete(
        moments, counts, sums, axes,
        orders=(order_of_codes(histogram, table), order_of_code_magnitudes(histogram, table)),
    )  # fmt: skip


def _weighted_moments(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    count = weights.sum()
    mean = (values * weights).sum() / count
    deviations = values - mean
    powers = [(deviations**power * weights).sum() for power in (2, 3, 4)]
    return np.array([count, mean, *powers])


def _survey_floats(values: np.ndarray, axes: Axes) -> Survey:
    totals = Totals.zeros()
    per_element = values.itemsize // 2
    halves = values.reshape(-1).view(np.uint16).reshape(*values.shape, per_element)
    pass_over_floats(values, halves[:, :, -1], totals, axes)
    flat = values.reshape(-1)
    orders: tuple[Order, Order]
    if values.dtype == np.float64 or values.size <= _SORTED_AT_MOST:
        orders = order_by_sorting(flat), order_by_sorting(np.abs(flat))
    else:
        ends = np.array([0, values.size - 1])
        exact = Halves(
            halves.reshape(-1, per_element),
            totals.histogram,
            ranks=np.concatenate([ends, neighbours(QUANTILES, values.size).ravel()]),
            magnitude_ranks=neighbours(MAGNITUDE_LEVELS, values.size).ravel(),
        )
        orders = exact.order, exact.order_of_magnitudes
    return _complete(totals.moments, totals.counts, totals.sums, axes, orders=orders)


def _complete(
    moments: np.ndarray, counts: np.ndarray, sums: np.ndarray, axes: Axes, *, orders: tuple[Order, Order]
) -> Survey:
    count = int(moments[0])
    if counts[NAN]:
        orders = _nothing, _nothing
    smallest, largest = orders[0](np.array([0, count - 1]))
    if counts[INF]:
        moments = np.array([count, smallest + largest, np.nan, np.nan, np.nan])
    elif smallest == largest:  # so that rounding in the mean cannot make a constant tensor look varied
        moments = np.array([count, smallest, 0.0, 0.0, 0.0])
    return Survey(
        count, int(counts[ZERO]), int(counts[NAN]), int(counts[INF]), moments,
        float(sums[ABS]), float(sums[SQUARE]), float(smallest), float(largest),
        quantiles(QUANTILES, count, orders[0]), quantiles(MAGNITUDE_LEVELS, count, orders[1]), axes,
    )  # fmt: skip


def _nothing(ranks: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.full(len(ranks), np.nan)
