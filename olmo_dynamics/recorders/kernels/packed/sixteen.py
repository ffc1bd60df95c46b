"""Steps over sixteen 32-bit numbers at once, for loops that no compiler turns into such steps by itself.

They pack the numbers within an interval, and find an order statistic by comparing all pairs of some numbers: neither has a branch
that depends on the numbers. Processors without such wide instructions run the same steps by several narrow ones. Arrays that
numbers are packed into have `SPARE` places more than numbers that may come.

    >>> packed = np.empty(20 + SPARE, np.uint32)
    >>> pack_within(np.arange(100, 120, dtype=np.uint32), np.uint32(103), np.uint32(105), packed)
    (3, 3)
    >>> packed[:3].tolist(), pair_of_ranks(packed, 3, 1)
    ([103, 104, 105], (104, 105))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from jaxtyping import UInt32
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from olmo_dynamics.recorders.kernels.jit import jit

SPARE = 32
"""Places beyond the last number that packing may write to."""

_cgutils: Any = cgutils
_types: Any = types

_LANES = 16
_WORD, _LONG = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, _LANES)
_MASK = ir.VectorType(ir.IntType(1), _LANES)


class _Steps:
    """Vector instructions of one function."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._context, self.builder = context, builder
        self._signature, self._arguments = signature, arguments

    def data(self, argument: int) -> Any:
        """The address of an array's numbers."""
        kind = self._signature.args[argument]
        return self._context.make_array(kind)(self._context, self.builder, self._arguments[argument]).data

    def load(self, data: Any, place: Any) -> Any:
        """Sixteen numbers from a place on."""
        return self.builder.load(self._at(data, place), align=4)

    def store(self, vector: Any, data: Any, place: Any) -> None:
        """Write sixteen numbers from a place on."""
        self.builder.store(vector, self._at(data, place), align=4)

    def splat(self, number: Any) -> Any:
        """One number sixteen times."""
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.Constant(_WORD, 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(_VECTOR, [0] * _LANES))

    def count(self, mask: Any) -> Any:
        """The number of lanes that are set."""
        bits = self.builder.bitcast(mask, ir.IntType(_LANES))
        return self.builder.zext(self.builder.ctpop(bits), _LONG)

    def pack(self, vector: Any, mask: Any) -> Any:
        """The numbers of the lanes that are set, at the front."""
        kind = ir.FunctionType(_VECTOR, [_VECTOR, _MASK, _VECTOR])
        function = _cgutils.get_or_insert_function(
            self.builder.module, kind, "llvm.experimental.vector.compress.v16i32"
        )
        return self.builder.call(function, [vector, mask, ir.Constant(_VECTOR, ir.Undefined)])

    def fill_last(self, data: Any, count: Any, start: Any) -> None:
        """Fill the last sixteen places, from `start` on, with the largest number where they lie beyond the count."""
        left = self.splat(self.builder.trunc(self.builder.sub(count, start), _WORD))
        is_there = self.builder.icmp_unsigned("<", ir.Constant(_VECTOR, list(range(_LANES))), left)
        most = ir.Constant(_VECTOR, [0xFFFFFFFF] * _LANES)
        self.store(self.builder.select(is_there, self.load(data, start), most), data, start)

    def larger(self, one: Any, other: Any) -> Any:
        """The larger number of each lane."""
        return self.builder.select(self.builder.icmp_unsigned(">", one, other), one, other)

    def largest(self, vector: Any) -> Any:
        """The largest of sixteen numbers."""
        kind = ir.FunctionType(_WORD, [_VECTOR])
        function = _cgutils.get_or_insert_function(self.builder.module, kind, "llvm.vector.reduce.umax.v16i32")
        return self.builder.zext(self.builder.call(function, [vector]), _LONG)

    def variable(self, value: Any) -> Any:
        """A place for a value that a loop changes; the compiler keeps it in a register."""
        return _cgutils.alloca_once_value(self.builder, value)

    def _at(self, data: Any, place: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [place]), _VECTOR.as_pointer())


def _pack_sixteens(_: Any, numbers: Any, low: Any, high: Any, packed: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        steps = _Steps(context, builder, signature, arguments)
        source, target = steps.data(0), steps.data(3)
        lower, upper = steps.splat(arguments[1]), steps.splat(arguments[2])
        length = context.make_array(signature.args[0])(context, builder, arguments[0]).nitems
        below, found = (steps.variable(ir.Constant(_LONG, 0)) for _ in range(2))
        with cgutils.for_range(builder, builder.lshr(length, ir.Constant(_LONG, 4))) as loop:
            vector = steps.load(source, builder.shl(loop.index, ir.Constant(_LONG, 4)))
            less = builder.icmp_unsigned("<", vector, lower)
            within = builder.and_(builder.not_(less), builder.icmp_unsigned("<=", vector, upper))
            place = builder.load(found)
            steps.store(steps.pack(vector, within), target, place)
            builder.store(builder.add(builder.load(below), steps.count(less)), below)
            builder.store(builder.add(place, steps.count(within)), found)
        return context.make_tuple(builder, signature.return_type, [builder.load(below), builder.load(found)])

    return _types.UniTuple(types.int64, 2)(numbers, types.uint32, types.uint32, packed), generate


def _rank_by_pairs(_: Any, packed: Any, count: Any, rank: Any, following: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        steps = _Steps(context, builder, signature, arguments)
        data, (_, count, *ranks) = steps.data(0), arguments
        zeros = ir.Constant(_VECTOR, [0] * _LANES)
        limits = [steps.splat(builder.trunc(each, _WORD)) for each in ranks]
        best = [steps.variable(zeros) for _ in limits]
        all_of = builder.and_(builder.add(count, ir.Constant(_LONG, _LANES - 1)), ir.Constant(_LONG, -_LANES))
        steps.fill_last(data, count, builder.sub(all_of, ir.Constant(_LONG, _LANES)))
        with cgutils.for_range(builder, builder.lshr(all_of, ir.Constant(_LONG, 4))) as loop:
            vector = steps.load(data, builder.shl(loop.index, ir.Constant(_LONG, 4)))
            less = steps.variable(zeros)
            with cgutils.for_range(builder, all_of) as inner:
                other = steps.splat(builder.load(builder.gep(data, [inner.index])))
                is_less = builder.zext(builder.icmp_unsigned("<", other, vector), _VECTOR)
                builder.store(builder.add(builder.load(less), is_less), less)
            for limit, kept in zip(limits, best, strict=True):
                candidate = builder.icmp_unsigned("<=", builder.load(less), limit)
                builder.store(steps.larger(builder.load(kept), builder.select(candidate, vector, zeros)), kept)
        found = [steps.largest(builder.load(kept)) for kept in best]
        return context.make_tuple(builder, signature.return_type, found)

    return _types.UniTuple(types.int64, 2)(packed, *[types.int64] * 3), generate


def _scan_sixteens(
    _: Any, codes: Any, magnitudes: Any, maxima: Any, low: Any, high: Any, packed: Any
) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        steps = _Steps(context, builder, signature, arguments)
        source, kept, most, target = (steps.data(each) for each in (0, 1, 2, 5))
        lower, upper = steps.splat(arguments[3]), steps.splat(arguments[4])
        unsigned = ir.Constant(_VECTOR, [0x7FFFFFFF] * _LANES)
        length = context.make_array(signature.args[0])(context, builder, arguments[0]).nitems
        below, found = (steps.variable(ir.Constant(_LONG, 0)) for _ in range(2))
        largest = steps.variable(ir.Constant(_VECTOR, [0] * _LANES))
        with cgutils.for_range(builder, builder.lshr(length, ir.Constant(_LONG, 4))) as loop:
            at = builder.shl(loop.index, ir.Constant(_LONG, 4))
            vector = builder.and_(steps.load(source, at), unsigned)
            steps.store(vector, kept, at)
            steps.store(steps.larger(steps.load(most, at), vector), most, at)
            builder.store(steps.larger(builder.load(largest), vector), largest)
            less = builder.icmp_unsigned("<", vector, lower)
            within = builder.and_(builder.not_(less), builder.icmp_unsigned("<=", vector, upper))
            place = builder.load(found)
            steps.store(steps.pack(vector, within), target, place)
            builder.store(builder.add(builder.load(below), steps.count(less)), below)
            builder.store(builder.add(place, steps.count(within)), found)
        counted = builder.load(below), builder.load(found), steps.largest(builder.load(largest))
        return context.make_tuple(builder, signature.return_type, counted)

    return (
        _types.UniTuple(types.int64, 3)(codes, magnitudes, maxima, types.uint32, types.uint32, packed),
        generate,
    )


_pack_whole: Callable[..., Any] = cast(Any, intrinsic(_pack_sixteens))
_by_pairs: Callable[..., Any] = cast(Any, intrinsic(_rank_by_pairs))
_scan_whole: Callable[..., Any] = cast(Any, intrinsic(_scan_sixteens))


@jit
def pack_within(
    numbers: UInt32[np.ndarray, " n"], low: np.uint32, high: np.uint32, packed: UInt32[np.ndarray, " room"]
) -> tuple[int, int]:
    """Count the numbers below `low`, and pack those from `low` to `high`, in order; returns how many there are of each."""
    below, found = _pack_whole(numbers, low, high, packed)
    for i in range(len(numbers) & ~15, len(numbers)):
        number = numbers[i]
        packed[found] = number
        below += number < low
        found += (number >= low) & (number <= high)
    return below, found


@jit
def pair_of_ranks(packed: UInt32[np.ndarray, " room"], count: int, rank: int) -> tuple[np.int64, np.int64]:
    """The numbers of a rank (0 is the smallest) and of the next one (or the largest), of the first `count` numbers.

    Every pair is compared: the number of a rank is the largest of those that at most so many are less than.
    """
    lower, upper = _by_pairs(packed, count, rank, min(rank + 1, count - 1))
    return lower, upper


@jit
def scan_row(
    codes: UInt32[np.ndarray, " n"],
    magnitudes: UInt32[np.ndarray, " n"],
    maxima: UInt32[np.ndarray, " n"],
    within: tuple[np.uint32, np.uint32],
    packed: UInt32[np.ndarray, " room"],
) -> tuple[np.int64, np.int64, np.int64]:
    """Fill the magnitudes of some codes, raise the maxima at their places, and pack those within an interval.

    Returns how many lie below the interval and within it, and the largest.
    """
    low, high = within
    below, found, largest = _scan_whole(codes, magnitudes, maxima, low, high, packed)
    for i in range(len(codes) & ~15, len(codes)):
        number = np.uint32(codes[i] & np.uint32(0x7FFFFFFF))
        magnitudes[i] = number
        maxima[i] = max(maxima[i], number)
        largest = max(largest, np.int64(number))
        packed[found] = number
        below += number < low
        found += (number >= low) & (number <= high)
    return below, found, largest
