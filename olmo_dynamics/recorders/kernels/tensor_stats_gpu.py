"""Statistics of a tensor that is on a device already: the numbers of `tensor_stats`, by torch's own operations.

    >>> import torch
    >>> info = TensorInfo("w", "BF16", (5,), "f", 0, 10)
    >>> found = tensor_stats_on_device(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.bfloat16), info)
    >>> found.largest, found.magnitude_quantile(0.5)
    (2.0, 1.0)

Codes are counted exactly, and completed by the same code as on the CPU: the elementwise statistics of 16-bit floats and all
order statistics are equal to the last bit. Other sums are float64, over some rows at a time. Working memory: about 1 GB,
or about fifty bytes per element of the longest row if that is more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders.kernels.elements import CODES, Axes, Tally, Totals
from olmo_dynamics.recorders.kernels.order_statistics import Halves
from olmo_dynamics.recorders.kernels.tensor_stats import (
    BlockStats,
    TensorStats,
    complete,
    describe,
    halves,
    is_sorted,
    matrix_shape,
)

_ELEMENTS = 1 << 24  # at once: 128 MiB in float64, a few times over
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def tensor_stats_on_device(x: Shaped[Tensor, "*shape"], info: TensorInfo, *, column_sums: bool = False) -> TensorStats:
    """Read a measurable tensor in its stored dtype, wherever it is; only the results are copied to the host.

    Raises:
        CheckpointError: the tensor's shape or width is not that of `info`.
    """
    if tuple(x.shape) != info.shape or x.nbytes != info.nbytes:
        raise CheckpointError(
            f"{info.name} must be {info.dtype} {list(info.shape)} (got {x.dtype} {list(x.shape)}); "
            "fetch the checkpoint again"
        )
    if info.dtype.startswith("F8_"):  # float16 holds all its numbers exactly
        wide = replace(info, dtype="F16", stop=info.start + 2 * info.nbytes)
        return tensor_stats_on_device(x.to(torch.float16), wide, column_sums=column_sums)
    matrix = x.reshape(matrix_shape(info))
    tally = _tally(matrix)
    by_axis = info.residual_axis is not None or column_sums
    axes = _axes(matrix, means=column_sums) if by_axis else Axes.none()
    if info.dtype in ("BF16", "F16"):
        return complete([BlockStats(info.dtype, Totals.zeros(), tally, axes)])
    totals = Totals.merge([_totals(rows.double()) for rows in _blocks(matrix)])
    if is_sorted(info.dtype, info.size):
        return complete([BlockStats(info.dtype, totals, tally, axes, ((matrix.cpu().numpy(), tally),))])
    exact = halves(tally, info.size)
    _count_lower_halves(matrix, exact)
    with np.errstate(invalid="ignore"):
        return describe(
            BlockStats(info.dtype, totals, tally, axes), totals, orders=(exact.order, exact.order_of_magnitudes)
        )


def _blocks(matrix: Shaped[Tensor, "rows columns"]) -> Iterator[Shaped[Tensor, "_ columns"]]:
    blocks: tuple[Tensor, ...] = torch.split(matrix, max(1, _ELEMENTS // matrix.shape[1]))
    return iter(blocks)


def _upper_halves(rows: Shaped[Tensor, "rows columns"]) -> Tensor:
    """The first 16 bits of each element, as non-negative integers."""
    width = rows.element_size()
    return (rows.reshape(-1).view(_BITS[width]) >> (8 * width - 16)).to(torch.int32) & (CODES - 1)


def _tally(matrix: Shaped[Tensor, "rows columns"]) -> Tally:
    histogram = torch.zeros(CODES, dtype=torch.int64, device=matrix.device)
    for rows in _blocks(matrix):
        histogram += torch.bincount(_upper_halves(rows), minlength=CODES)
    return Tally.merge([Tally(np.arange(CODES, dtype=np.uint16), _counts(histogram))])


def _count_lower_halves(matrix: Float[Tensor, "rows columns"], exact: Halves) -> None:
    """Make the second pass over float32: count the lower 16 bits of the elements whose upper ones have a slot."""
    slots = torch.from_numpy(exact.slots).to(matrix.device, torch.int32)
    tables = int(exact.slots.max()) + 1
    lower = torch.zeros(tables * CODES, dtype=torch.int64, device=matrix.device)
    for rows in _blocks(matrix):
        slot = slots[_upper_halves(rows)]
        chosen = slot >= 0
        bits = rows.reshape(-1).view(torch.int32)[chosen] & (CODES - 1)
        lower += torch.bincount(slot[chosen] * CODES + bits, minlength=len(lower))
    exact.add(_counts(lower).reshape(tables, CODES))


def _axes(matrix: Shaped[Tensor, "rows columns"], *, means: bool) -> Axes:
    parts = [_sums_by_axis(rows.double(), means=means) for rows in _blocks(matrix)]
    row_squares = torch.cat([part[0] for part in parts])
    columns = [torch.stack(each).sum(0) for each in list(zip(*parts, strict=True))[1:]]
    return Axes(*(each.cpu().numpy() for each in (row_squares, *columns)))


def _sums_by_axis(wide: Float[Tensor, "rows columns"], *, means: bool) -> tuple[Tensor, Tensor, Tensor]:
    squares = wide.square()
    return squares.sum(1), squares.sum(0), wide.sum(0) if means else wide.new_zeros(0)


def _totals(wide: Float[Tensor, "rows columns"]) -> Totals:
    """Moments, counts and sums of some rows; one transfer to the host."""
    mean = wide.mean()
    deviations = wide - mean
    squares = deviations.square()
    counts = [(wide == 0).sum(), wide.isnan().sum(), wide.isinf().sum()]
    sums = [
        mean,
        squares.sum(),
        (squares * deviations).sum(),
        squares.square().sum(),
        wide.abs().sum(),
        wide.square().sum(),
    ]
    found = torch.stack([*sums, *(count.double() for count in counts)]).cpu().numpy()  # counts below 2^53 are exact
    return Totals(np.array([wide.numel(), *found[:4]]), found[6:].astype(np.int64), found[4:6])


def _counts(histogram: Tensor) -> Int64[np.ndarray, " n"]:
    counts: np.ndarray = histogram.cpu().numpy()
    return counts
