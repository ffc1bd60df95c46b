"""Counts and power sums of four rows at a time, in one loop of vector instructions.

Counting keeps the processor's stores busy, and sums its arithmetic. In two loops each waits for the other: a processor looks
some hundred instructions ahead, which is less than a loop over a row. So the loop is written in LLVM's vector instructions,
which compile to those of any processor: of eight columns, it counts the upper halves of 32 elements, and adds their powers.

    sums[:] = 0.0
    count_and_sum(values[0], values[1], values[2], values[3], column_squares, histogram, sums)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 8
"""Columns handled at a time."""

ROWS = 4
"""Rows handled at a time."""

VALUE, MAGNITUDE, CUBE, FOURTH = range(ROWS, ROWS + 4)
"""Indices into the sums: of values, magnitudes, third and fourth powers. Those below are the squares of each row."""

SUMS = ROWS + 4
"""The number of sums."""

_DOUBLE, _COUNT, _HALF, _INDEX = ir.DoubleType(), ir.IntType(32), ir.IntType(16), ir.IntType(64)
_DOUBLES, _FLOATS = ir.VectorType(_DOUBLE, LANES), ir.VectorType(ir.FloatType(), LANES)
_FUSED = ("contract",)  # a product and a sum may be rounded once


class _Arithmetic:
    """Instructions on vectors of float64, and sums of them that stay in registers."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        zeros = ir.Constant(_DOUBLES, [ir.Constant(_DOUBLE, 0.0)] * LANES)
        room: Any = cgutils.alloca_once_value
        self._sums = [room(builder, zeros) for _ in range(SUMS)]

    def plus(self, one: Any, other: Any) -> Any:
        return self._builder.fadd(one, other, flags=_FUSED)

    def times(self, one: Any, other: Any) -> Any:
        return self._builder.fmul(one, other, flags=_FUSED)

    def magnitude(self, vector: Any) -> Any:
        kind = ir.FunctionType(_DOUBLES, [_DOUBLES])
        find: Any = cgutils.get_or_insert_function
        return self._builder.call(find(self._builder.module, kind, f"llvm.fabs.v{LANES}f64"), [vector])

    def total(self, vectors: Sequence[Any]) -> Any:
        a, b, c, d = vectors
        return self.plus(self.plus(a, b), self.plus(c, d))

    def add(self, place: int, vector: Any) -> None:
        self._builder.store(self.plus(self._builder.load(self._sums[place]), vector), self._sums[place])

    def across(self, place: int) -> Any:
        """The sum of a vector's lanes, pairwise."""
        vector = self._builder.load(self._sums[place])
        parts = [self._builder.extract_element(vector, ir.Constant(_COUNT, lane)) for lane in range(LANES)]
        while len(parts) > 1:
            parts = [self.plus(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]


def _count(builder: Any, row: Any, column: Any, histogram: Any) -> None:
    """Count the upper halves of eight elements, which follow the lower ones in memory."""
    halves = builder.bitcast(row, _HALF.as_pointer())
    first = builder.shl(column, ir.Constant(_INDEX, 1))
    for lane in range(LANES):
        place = builder.add(first, ir.Constant(_INDEX, 2 * lane + 1))
        code = builder.zext(builder.load(builder.gep(halves, [place])), _INDEX)
        cell = builder.gep(histogram, [code])
        builder.store(builder.add(builder.load(cell), ir.Constant(_COUNT, 1)), cell)


def _values(builder: Any, row: Any, column: Any) -> Any:
    """Eight elements as float64."""
    floats = builder.load(builder.bitcast(builder.gep(row, [column]), _FLOATS.as_pointer()))
    floats.align = 4
    return builder.fpext(floats, _DOUBLES)


def _add_powers(builder: Any, sums: _Arithmetic, values: Sequence[Any], by_column: Any) -> None:
    squares = [sums.times(each, each) for each in values]
    place = builder.bitcast(by_column, _DOUBLES.as_pointer())
    before = builder.load(place)
    before.align = 8
    builder.store(sums.plus(before, sums.total(squares)), place).align = 8
    for row, square in enumerate(squares):
        sums.add(row, square)
    sums.add(VALUE, sums.total(values))
    sums.add(MAGNITUDE, sums.total([sums.magnitude(each) for each in values]))
    sums.add(CUBE, sums.total([sums.times(*each) for each in zip(values, squares, strict=True)]))
    sums.add(FOURTH, sums.total([sums.times(each, each) for each in squares]))


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    arrays = [context.make_array(kind)(context, builder, each)
              for kind, each in zip(signature.args, arguments, strict=True)]  # fmt: skip
    *rows, columns, histogram, found = (each.data for each in arrays)
    lengths: Any = cgutils.unpack_tuple
    width = lengths(builder, arrays[ROWS].shape)[0]
    sums, start, step = _Arithmetic(builder), ir.Constant(_INDEX, 0), ir.Constant(_INDEX, LANES)
    with cgutils.for_range_slice(builder, start, width, step, _INDEX) as (column, _):
        for row in rows:
            _count(builder, row, column, histogram)
        values = [_values(builder, row, column) for row in rows]
        _add_powers(builder, sums, values, builder.gep(columns, [column]))
    for place in range(SUMS):
        cell = builder.gep(found, [ir.Constant(_INDEX, place)])
        builder.store(builder.fadd(builder.load(cell), sums.across(place)), cell)
    return context.get_dummy_value()


def _count_and_sum(
    _: Any, a: Any, b: Any, c: Any, d: Any, columns: Any, histogram: Any, sums: Any
) -> tuple[Any, Callable[..., Any]]:
    return types.void(a, b, c, d, columns, histogram, sums), _generate


count_and_sum: Callable[..., None] = cast(Any, intrinsic(_count_and_sum))
"""Inside a compiled loop: add to the columns' squares, the histogram of upper halves, and the sums of four float32 rows.

The arguments are the rows, the sums of the columns' squares, the histogram and the sums, each contiguous; the columns are a
multiple of `LANES` in number.
"""
